"""What an explicit process reward model returns in training: a logit at every mark."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.states import read_states
from prmbench.training.model.forward import lend_weights
from prmbench.training.prm.recipe import ConcentrationOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORE_HEAD = "score"
"""Name of the two-class head, as transformers' token classification has it: class 1 is right."""

CONCENTRATION_HEAD = "concentration"
"""Name of the head that says how sure a mean is: a layer norm, and a linear layer after it."""


def give_step_logits(
    model: PreTrainedModel, seed: int, concentration: ConcentrationOptions | None = None, *, bias: bool = True
) -> None:
    """Add a two-class head and make ``model(input_ids=, rows=, columns=)`` return its logit for right minus that for wrong.

    They come as ``{"values": logits}``, float32, shape [n], one for each place. The head is a linear layer, which
    starts from small random weights. The output layer has no part in it and is frozen unless it is the input embedding.

    Args:
        model: The model; it is changed in place.
        seed: Seed of the head's first weights.
        concentration: Options of a second head, whose softplus plus a floor is the concentration of a Beta distribution. It comes
            as ``"concentrations"``, of the same type and shape. None: there is none.
        bias: Whether the two-class head has a bias. A loss of differences has no gradient for one, but AdamW would move it by
            rounding alone.
    """
    weight = model.get_output_embeddings().weight
    width = weight.shape[1]
    head = torch.nn.Linear(width, 2, bias=bias)
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, width, generator=generator) * std)
        if bias:
            head.bias.zero_()
    model.add_module(SCORE_HEAD, head.to(device=weight.device, dtype=weight.dtype))
    if concentration is not None:
        second = concentration_head(width, concentration, generator)
        model.add_module(CONCENTRATION_HEAD, second.to(device=weight.device, dtype=weight.dtype))
    if weight is not model.get_input_embeddings().weight:
        weight.requires_grad_(False)
    trunk = model.get_decoder()

    def forward(input_ids: Tensor, rows: Tensor, columns: Tensor, **_: Any) -> dict[str, Tensor]:
        states = read_states(trunk, input_ids, rows, columns)
        # The heads are found by their names, because an adapter may have put a wrapper in their place.
        logits = getattr(model, SCORE_HEAD)(states).float()
        found = {"values": logits[:, 1] - logits[:, 0]}
        if concentration is not None:
            raw = getattr(model, CONCENTRATION_HEAD)(states).float()[:, 0]
            found["concentrations"] = torch.nn.functional.softplus(raw) + concentration.floor
        return found

    model.forward = forward


def concentration_head(width: int, options: ConcentrationOptions, generator: torch.Generator) -> torch.nn.Sequential:
    """Make a head that begins with nearly the same concentration for every state.

    Args:
        width: Width of the states.
        options: Say the concentration to begin with, and the floor.
        generator: Gives the first weights, which are small.

    Returns:
        The head; the softplus and the floor are not in it.
    """
    linear = torch.nn.Linear(width, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(1, width, generator=generator) * 1e-3)
        linear.bias.fill_(math.log(math.expm1(options.start - options.floor)))  # the inverse of softplus
    return torch.nn.Sequential(torch.nn.LayerNorm(width), linear)


def give_pair_logits(model: PreTrainedModel, pair: tuple[int, int], source: str) -> None:
    """Make ``model(input_ids=, rows=, columns=)`` return the logit of the token for right minus that of the token for wrong.

    Args:
        model: The model; it is changed in place.
        pair: Ids of the two tokens.
        source: What to call it in errors.

    Raises:
        UserError: The architecture changes its logits in an unknown way (see `HFEngine`).
    """
    engine = HFEngine(model, source)
    trunk, head, finish = engine.trunk, engine.head, engine.finish

    def forward(input_ids: Tensor, rows: Tensor, columns: Tensor, **_: Any) -> dict[str, Tensor]:
        states = read_states(trunk, input_ids, rows, columns)

        def of_pair(weight: Tensor, bias: Tensor | None) -> Tensor:
            own = None if bias is None else bias[list(pair)]
            return torch.nn.functional.linear(states, weight[list(pair)], own)

        logits = head(states, of_pair).float()
        logits = logits if finish is None else finish(logits)
        return {"values": logits[:, 0] - logits[:, 1]}

    lend_weights(head)
    model.forward = forward
