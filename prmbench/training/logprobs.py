"""Token log-probs with gradients whose memory does not grow with vocabulary x tokens.

The full ``[tokens, vocabulary]`` logits never exist: they are made a block of rows at a time in the forward pass, and made
again in the backward pass (one more product with the output layer, a fifth of a step's at most).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prmbench.engines.hf import HEAD_BLOCK, head_logits

LogitMap = Callable[[Tensor], Tensor] | None


def token_logprobs(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    finish: LogitMap = None,
    block: int = HEAD_BLOCK,
) -> Tensor:
    """log softmax(finish(states @ weight.T + bias))[targets], differentiable in states, weight and bias.

    Args:
        states: float, shape [n, width]. weight: shape [vocabulary, width]. bias: shape [vocabulary] or None.
        targets: int64, shape [n].
        finish: what the architecture does to its logits, elementwise (a soft cap, a scale); None: nothing.
        block: logits held at once, in numbers.

    Returns:
        float32, shape [n].
    """
    return _TokenLogprobs.apply(states, weight, bias, targets, finish, max(1, block // weight.shape[0]))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        finish: LogitMap,
        rows: int,
    ) -> Tensor:
        totals, picked = [], []
        for start in range(0, len(states), rows):
            logits = head_logits(states[start : start + rows], weight, bias)
            if finish is not None:
                logits = finish(logits)
            totals.append(logits.logsumexp(dim=-1))
            picked.append(logits.gather(1, targets[start : start + rows, None])[:, 0])
        total = torch.cat(totals) if totals else states.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(states, weight, bias, targets, total)
        ctx.finish, ctx.rows = finish, rows
        return (torch.cat(picked) if picked else total) - total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, total = ctx.saved_tensors
        (grad,) = grad_outputs
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        weight32 = weight.float()
        grad_states = torch.empty_like(states) if wants_states else None
        grad_weight = torch.zeros_like(weight32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), ctx.rows):
                part = slice(start, start + ctx.rows)
                raw = head_logits(states[part], weight, bias)
                if ctx.finish is None:
                    to_raw = _softmax_gradient(raw, total[part], targets[part], grad[part])
                else:
                    with torch.enable_grad():
                        leaf = raw.detach().requires_grad_()
                        logits = ctx.finish(leaf)
                    outer = _softmax_gradient(logits.detach().clone(), total[part], targets[part], grad[part])
                    (to_raw,) = torch.autograd.grad(logits, leaf, outer)
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
            None,
            None,
            None,
        )


def _softmax_gradient(logits: Tensor, total: Tensor, targets: Tensor, grad: Tensor) -> Tensor:
    """grad * (one_hot(target) - softmax(logits)), in place of the logits."""
    weights = logits.sub_(total[:, None]).exp_().mul_(-grad[:, None])
    return weights.scatter_add_(1, targets[:, None], grad[:, None])
