"""What a model in training returns: one value for each response token, instead of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prmbench.engines.hf import HFEngine
from prmbench.reward_models.card import ReadState
from prmbench.reward_models.q_rm import VALUE_HEAD, state_offset
from prmbench.training.logprobs import token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def give_logprobs(model: PreTrainedModel, source: str) -> None:
    """Make ``model(input_ids=, rows=, columns=)`` return ``{"values": log-probs of input_ids[rows, columns]}``.

    The forward itself is replaced, so that whatever wraps the model (DDP, FSDP, PEFT) still sees one call, with the
    output layer's weights gathered while it runs. Sequences are padded on the right and need no attention mask.

    Raises:
        UserError: the architecture changes its logits in an unknown way (see `HFEngine`).
    """
    engine = HFEngine(model, source)
    trunk, head, finish = engine.trunk, engine.head, engine.finish

    def forward(input_ids: Tensor, rows: Tensor, columns: Tensor, **_: Any) -> dict[str, Tensor]:
        states = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        picked = states[rows, columns - 1]
        return {"values": token_logprobs(picked, head.weight, head.bias, input_ids[rows, columns], finish)}

    model.forward = forward


def give_values(model: PreTrainedModel, read_state: ReadState, seed: int) -> None:
    """Add a bias-free linear head and make ``model(input_ids=, rows=, columns=)`` return its outputs Z (Q-RM).

    The head starts from small random weights, as heads of transformers do. The output layer has no part in it and is frozen
    unless it is the input embedding.
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
        states = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        # By name: an adapter may have put a wrapper in the head's place.
        return {"values": getattr(model, VALUE_HEAD)(states[rows, columns + offset])[:, 0].float()}

    model.forward = forward
