"""What a model in training returns: values of response tokens, instead of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.states import read_states
from prmbench.reward_models.card import ReadState
from prmbench.reward_models.q_rm import VALUE_HEAD, state_offset
from prmbench.training.model.logprobs import Find, find_logprobs, select_logprobs, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.training.data.pairs import Response

Model = Callable[..., dict[str, Tensor]]
"""A model whose forward `give_logprobs` has replaced, wrapped or not."""


def pack(responses: Sequence[Response]) -> dict[str, Tensor]:
    """Make a batch of responses.

    Args:
        responses: The responses.

    Returns:
        ``input_ids``: token ids, padded on the right with 0, int64, shape [b, l]. ``rows`` and ``columns``: where the response
        tokens are, row by row, int64, shape [n]. ``mask``: a response's tokens, first in their row, bool, shape [b, t].
    """
    counts = torch.tensor([len(r) - r.n_prompt for r in responses])
    input_ids = torch.zeros((len(responses), max(len(r) for r in responses)), dtype=torch.long)
    for i, response in enumerate(responses):
        input_ids[i, : len(response)] = torch.from_numpy(response.ids)
    return {
        "input_ids": input_ids,
        "rows": torch.repeat_interleave(torch.arange(len(responses)), counts),
        "columns": torch.cat([torch.arange(r.n_prompt, len(r)) for r in responses]),
        "mask": torch.arange(int(counts.max()))[None, :] < counts[:, None],
    }


def give_logprobs(model: PreTrainedModel, source: str, size: int | None = None) -> None:
    """Make ``model(input_ids=, rows=, columns=)`` return the log-probs of ``input_ids[rows, columns]``.

    They come as ``{"values": log-probs}``, float32, shape [n]. The forward itself is replaced, so that whatever wraps the model
    (DDP, FSDP, PEFT) still sees one call, with the output layer's weights gathered while it runs. A call without ``rows`` goes to
    the model's own forward. Sequences are padded on the right and need no attention mask. There are two more ways to call it, for
    policy optimisation:

    - With ``where`` and ``tokens``, the log-probs of these tokens in these of the n places come too, as ``picked``
      (`select_logprobs`).
    - With ``find``, there is no gradient, and ``where``, ``tokens``, ``picked`` and ``entropy`` of what it chooses come too
      (`find_logprobs`).

    Args:
        model: The model; it is changed in place.
        source: What to call it in errors.
        size: Number of token ids, from 0 on, that have a probability; None: all.

    Raises:
        UserError: The architecture changes its logits in an unknown way (see `HFEngine`).
    """
    engine = HFEngine(model, source)
    trunk, head, finish = engine.trunk, engine.head, engine.finish
    own = model.forward

    def forward(
        input_ids: Tensor,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        where: Tensor | None = None,
        tokens: Tensor | None = None,
        find: Find | None = None,
        **others: Any,
    ) -> Any:
        if rows is None or columns is None:
            return own(input_ids=input_ids, **others)
        states = read_states(trunk, input_ids, rows, columns - 1)
        targets = input_ids[rows, columns]
        if find is not None:
            found = head(states, lambda weight, bias: vars(find_logprobs(states, weight, bias, targets, find, finish)))
            return {"values" if name == "logprobs" else name: value for name, value in found.items()}
        if where is None or tokens is None:
            return {"values": head(states, lambda weight, bias: token_logprobs(states, weight, bias, targets, finish))}
        every = torch.cat([torch.arange(len(targets), device=targets.device), where])
        both = torch.cat([targets, tokens])
        logprobs = head(states, lambda weight, bias: select_logprobs(states, weight, bias, every, both, finish))
        n = len(targets)
        return {"values": logprobs[:n].clone(), "picked": logprobs[n:].clone()}  # FSDP hooks itself to no views

    lend_weights(head, size)
    model.forward = forward


def lend_weights(head: Any, size: int | None = None) -> None:
    """Make ``head(states, compute)`` return what ``compute(weight, bias)`` gives, of the weights of an output layer.

    Whatever divides a model among processes gathers a layer when that layer is called, and not before. So nothing may read the
    weights of a layer that is not called.

    Args:
        head: The output layer; it is changed in place, and computes as before when it is called with states alone.
        size: Number of token ids, from 0 on, whose weights are given; None: all.
    """
    plain = head.forward

    def forward(states: Tensor, compute: Callable[[Tensor, Tensor | None], Any] | None = None) -> Any:
        if compute is None:
            return plain(states)
        if size is None:
            return compute(head.weight, head.bias)
        return compute(head.weight[:size], None if head.bias is None else head.bias[:size])

    head.forward = forward


def give_values(model: PreTrainedModel, read_state: ReadState, seed: int) -> None:
    """Add a bias-free linear head and make ``model(input_ids=, rows=, columns=)`` return its outputs Z (Q-RM).

    The head starts from small random weights, as heads of transformers do. The output layer has no part in it and is frozen
    unless it is the input embedding.

    Args:
        model: The model; it is changed in place.
        read_state: The state that a token's value is read from.
        seed: Seed of the head's first weights.
    """
    width = model.get_output_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    head = torch.nn.Linear(width, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=generator) * std)
    weight = model.get_output_embeddings().weight
    model.add_module(VALUE_HEAD, head.to(device=weight.device, dtype=weight.dtype))
    if weight is not model.get_input_embeddings().weight:
        weight.requires_grad_(False)
    trunk, offset = model.get_decoder(), state_offset(read_state)

    def forward(input_ids: Tensor, rows: Tensor, columns: Tensor, **_: Any) -> dict[str, Tensor]:
        states = read_states(trunk, input_ids, rows, columns + offset)
        # The head is found by its name, because an adapter may have put a wrapper in its place.
        values = getattr(model, VALUE_HEAD)(states)
        return {"values": values[:, 0].float().clone()}  # FSDP hooks itself to no views

    model.forward = forward
