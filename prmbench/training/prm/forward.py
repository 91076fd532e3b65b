"""What an explicit process reward model returns in training: a logit at every mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prmbench.engines.hf.engine import HFEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORE_HEAD = "score"
"""Name of the two-class head, as transformers' token classification has it: class 1 is right."""


def give_step_logits(model: PreTrainedModel, seed: int) -> None:
    """Add a two-class head and make ``model(input_ids=, rows=, columns=)`` return its logit for right minus that for wrong.

    They come as ``{"values": logits}``, float32, shape [n], one for each place. The head is a linear layer with a bias, which
    starts from small random weights. The output layer has no part in it and is frozen unless it is the input embedding.

    Args:
        model: The model; it is changed in place.
        seed: Seed of the head's first weights.
    """
    weight = model.get_output_embeddings().weight
    width = weight.shape[1]
    head = torch.nn.Linear(width, 2)
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, width, generator=torch.Generator().manual_seed(seed)) * std)
        head.bias.zero_()
    model.add_module(SCORE_HEAD, head.to(device=weight.device, dtype=weight.dtype))
    if weight is not model.get_input_embeddings().weight:
        weight.requires_grad_(False)
    trunk = model.get_decoder()

    def forward(input_ids: Tensor, rows: Tensor, columns: Tensor, **_: Any) -> dict[str, Tensor]:
        states = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        # The head is found by its name, because an adapter may have put a wrapper in its place.
        logits = getattr(model, SCORE_HEAD)(states[rows, columns]).float()
        return {"values": logits[:, 1] - logits[:, 0]}

    model.forward = forward


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
        states = trunk(input_ids=input_ids, use_cache=False).last_hidden_state[rows, columns]
        bias = None if head.bias is None else head.bias[list(pair)]
        logits = torch.nn.functional.linear(states, head.weight[list(pair)], bias).float()
        logits = logits if finish is None else finish(logits)
        return {"values": logits[:, 0] - logits[:, 1]}

    model.forward = forward
