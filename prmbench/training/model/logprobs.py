"""Token log-probs whose memory does not grow with vocabulary x tokens.

The full ``[tokens, vocabulary]`` logits never exist: they are made a block of rows at a time in the forward pass, and made
again in the backward pass (one more product with the output layer, a fifth of a step's at most).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prmbench.engines.hf.head import HEAD_BLOCK, head_logits

LogitMap = Callable[[Tensor], Tensor] | None

Find = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Chooses tokens: from log-probs [n, vocabulary] and sampled tokens [n] to states and tokens, int64, shape [m] each."""


@dataclass(frozen=True)
class Found:
    """What `find_logprobs` returns.

    Attributes:
        logprobs: Log-probs of the targets. float32, shape [n].
        entropy: Entropy of each state's distribution, in nats. float32, shape [n].
        where: States at which tokens were chosen. int64, shape [m].
        tokens: The tokens that were chosen there. int64, shape [m].
        picked: Their log-probs. float32, shape [m].
    """

    logprobs: Tensor
    entropy: Tensor
    where: Tensor
    tokens: Tensor
    picked: Tensor


def token_logprobs(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    finish: LogitMap = None,
    block: int = HEAD_BLOCK,
) -> Tensor:
    """Compute log softmax(finish(states @ weight.T + bias))[targets], differentiable in states, weight and bias.

    Args:
        states: Hidden states. Float, shape [n, width].
        weight: Weights of the output layer. Shape [vocabulary, width].
        bias: Bias of the output layer, shape [vocabulary]; None where it has none.
        targets: One token for each state. int64, shape [n].
        finish: What the architecture does to its logits, elementwise (a soft cap, a scale); None for nothing.
        block: How many logits are held at once.

    Returns:
        Log-probs. float32, shape [n].
    """
    where = torch.arange(len(targets), device=targets.device)
    return select_logprobs(states, weight, bias, where, targets, finish, block)


def select_logprobs(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    where: Tensor,
    tokens: Tensor,
    finish: LogitMap = None,
    block: int = HEAD_BLOCK,
) -> Tensor:
    """Compute log-probs of any tokens at any states, in one pass over the vocabulary, however many there are.

    Args:
        states: See `token_logprobs`.
        weight: See `token_logprobs`.
        bias: See `token_logprobs`.
        where: The state of each token, in any order; states may repeat or be left out. int64, shape [m].
        tokens: The tokens. int64, shape [m].
        finish: See `token_logprobs`.
        block: See `token_logprobs`.

    Returns:
        Log-probs, differentiable in states, weight and bias. float32, shape [m].
    """
    order = torch.argsort(where, stable=True)
    by_state = _SelectLogprobs.apply(states, weight, bias, where[order], tokens[order], finish, _rows(weight, block))
    return torch.empty_like(by_state).scatter(0, order, by_state)


@torch.no_grad()
def find_logprobs(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    find: Find,
    finish: LogitMap = None,
    block: int = HEAD_BLOCK // 2,
) -> Found:
    """Compute log-probs of the targets and of whatever tokens are chosen from the whole distribution, without gradient.

    Blocks are half as large as elsewhere, because choosing and the entropy hold a second one.

    Args:
        states: See `token_logprobs`.
        weight: See `token_logprobs`.
        bias: See `token_logprobs`.
        targets: See `token_logprobs`.
        find: Chooses the tokens.
        finish: See `token_logprobs`.
        block: See `token_logprobs`.

    Returns:
        What was found.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in ("logprobs", "entropy", "where", "tokens", "picked")}
    for start, logits in _blocks(states, weight, bias, finish, _rows(weight, block)):
        mine = targets[start : start + len(logits)]
        logprobs = logits.sub_(logits.logsumexp(dim=-1, keepdim=True))
        rows, tokens = find(logprobs, mine)
        parts["logprobs"].append(logprobs.gather(1, mine[:, None])[:, 0])
        parts["where"].append(rows + start)
        parts["tokens"].append(tokens)
        parts["picked"].append(logprobs[rows, tokens])
        parts["entropy"].append(_entropy(logprobs))
    return Found(**{name: torch.cat(values) if values else states.new_zeros(0) for name, values in parts.items()})


def _rows(weight: Tensor, block: int) -> int:
    return max(1, block // int(weight.shape[0]))


def _blocks(
    states: Tensor, weight: Tensor, bias: Tensor | None, finish: LogitMap, rows: int
) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(states), rows):
        logits = head_logits(states[start : start + rows], weight, bias)
        yield start, logits if finish is None else finish(logits)


def _entropy(logprobs: Tensor) -> Tensor:
    # A token of probability 0 adds nothing, though its log-prob is -inf.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(dim=-1)


class _SelectLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        where: Tensor,
        tokens: Tensor,
        finish: LogitMap,
        rows: int,
    ) -> Tensor:
        totals, picked = [], []
        edges = _edges(where, len(states), rows)
        for i, (start, logits) in enumerate(_blocks(states, weight, bias, finish, rows)):
            part = slice(edges[i], edges[i + 1])
            totals.append(logits.logsumexp(dim=-1))
            picked.append(logits[where[part] - start, tokens[part]])
        nothing = states.new_zeros(0, dtype=torch.float32)
        total = torch.cat([*totals, nothing])
        ctx.save_for_backward(states, weight, bias, where, tokens, total)
        ctx.finish, ctx.rows = finish, rows
        return torch.cat([*picked, nothing]) - total[where]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, where, tokens, total = ctx.saved_tensors
        (grad,) = grad_outputs
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        weight32 = weight.float()
        grad_states = torch.empty_like(states) if wants_states else None
        grad_weight = torch.zeros_like(weight32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        of_state = torch.zeros_like(total).index_add(0, where, grad)
        edges = _edges(where, len(states), ctx.rows)
        with torch.autocast(states.device.type, enabled=False):
            for i, start in enumerate(range(0, len(states), ctx.rows)):
                part, picks = slice(start, start + ctx.rows), slice(edges[i], edges[i + 1])
                raw = head_logits(states[part], weight, bias)
                if ctx.finish is None:
                    leaf, logits = raw, raw
                else:
                    with torch.enable_grad():
                        leaf = raw.detach().requires_grad_()
                        logits = ctx.finish(leaf)
                # d log softmax(z)[y] / dz = one_hot(y) - softmax(z), summed over a state's picked tokens.
                # It takes the place of the logits.
                values = raw if ctx.finish is None else logits.detach().clone()
                outer = values.sub_(total[part, None]).exp_().mul_(-of_state[part, None])
                outer.index_put_((where[picks] - start, tokens[picks]), grad[picks], accumulate=True)
                to_raw = outer if ctx.finish is None else torch.autograd.grad(logits, leaf, outer)[0]
                if grad_states is not None:
                    grad_states[part] = to_raw @ weight32
                if grad_weight is not None:
                    grad_weight.addmm_(to_raw.T, states[part].float())
                if grad_bias is not None:
                    grad_bias += to_raw.sum(dim=0)
        return (
            grad_states,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *[None] * 4,
        )


def _edges(where: Tensor, n_states: int, rows: int) -> list[int]:
    """Where each block's picks begin in the sorted `where`, and the end of the last."""
    starts = torch.arange(0, n_states + rows, rows, device=where.device)
    found: list[int] = torch.searchsorted(where, starts).tolist()
    return found
