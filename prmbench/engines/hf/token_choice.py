"""Choosing a token from logits with a given uniform number."""

from __future__ import annotations

import torch

from prmbench.engines.sampling import SamplingParams

_BLOCK = 256  # how many columns are summed before one of them is looked for
_RANKED = 256  # how many tokens are ranked at first, where not all are allowed


def choose(logits: torch.Tensor, uniform: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Pick one token in each row by inverting the cumulative distribution at the uniform number of the row.

    Args:
        logits: float32, shape [rows, vocabulary]. They are overwritten: as much memory again would cost more than the computation.
        uniform: Uniform numbers in [0, 1). float64, shape [rows].
        params: How tokens are chosen.

    Returns:
        Token ids. int64, shape [rows].

    Raises:
        FloatingPointError: The largest logit of a row is NaN or infinite.
    """
    largest = logits.amax(dim=-1, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise FloatingPointError("gives logits that are not finite numbers")
    if params.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.sub_(largest).div_(params.temperature)
    if not params.top_k and params.top_p == 1:
        return _invert(logits.exp_(), uniform)
    ids, probs = _kept(logits, params)
    return ids.gather(1, _invert(probs, uniform)[:, None])[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Find the column where the cumulative weight of a row first exceeds the uniform number's share of all. int64, shape [rows].

    A block of columns is found first, then the column within it: a cumulative sum of all in float64 takes many times as long.
    """
    width = weights.shape[1]
    whole = width - width % _BLOCK
    sums = torch.cat(
        [weights[:, :whole].unflatten(1, (-1, _BLOCK)).sum(dim=-1), weights[:, whole:].sum(1, keepdim=True)], 1
    )
    block, left = _first_above(sums, uniform * sums.sum(dim=-1, dtype=torch.float64))
    columns = _BLOCK * block[:, None] + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, columns.clamp(max=width - 1)) * (columns < width)
    return _BLOCK * block + _first_above(inside, left)[0]


def _first_above(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the first column whose cumulative weight is above the target of a row, and what of the target is left before it.

    Where rounding leaves no such column, it is the last one with any weight. int64 and float64, both shape [rows].
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    column = torch.searchsorted(cumulative, target[:, None], right=True)
    return column[:, 0], (target - (cumulative - weights).gather(1, column)[:, 0]).clamp(min=0)


def _kept(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the likeliest tokens that top-k and top-p leave. Of equally likely ones the lower ids are kept.

    Returns:
        Token ids in ascending order, int64; and their probabilities, float32, 0 for what is left out. The shape of both is
        [rows, some number of columns].
    """
    total = torch.logsumexp(logits, dim=-1, keepdim=True)
    vocabulary = logits.shape[-1]
    some = min(max(_RANKED, params.top_k + 1), vocabulary)
    while True:  # a sort of everything takes many times as long, and is rarely needed
        by_id = logits.topk(some, dim=-1).indices.sort(dim=-1).values  # so that the stable sort puts lower ids first
        ranked, order = logits.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
        probs = (ranked - total).exp()
        keep = probs.cumsum(dim=-1, dtype=torch.float64) - probs < params.top_p
        if params.top_k:
            keep[:, params.top_k :] = False
        # Tokens as likely as the last one ranked may be missing: it must not be needed, nor one that equals it.
        if some == vocabulary or bool((~keep | (ranked > ranked[:, -1:])).all()):
            return by_id, torch.zeros_like(probs).scatter(-1, order, probs * keep)
        some = min(8 * some, vocabulary)
