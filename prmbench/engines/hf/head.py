"""The output layer: what is asked of the logits at hidden states, without a whole row of logits ever being held.

The log-prob of a token needs the log-sum-exp of its row, and that can be had a tile of the vocabulary at a time. A tile stays
in the cache of the processor while it is read, and its matrix product has many rows, however large the vocabulary is. On a CPU this
takes half the time of whole rows in blocks of the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from prmbench.engines.types import Quantity

HEAD_BLOCK = 1 << 24  # how many logits are held at once (64 MiB of float32)
TILE_ROWS = 1 << 10
_CPU_TILE = 1 << 22  # how many logits a tile has on a CPU: more would fall out of its cache

Tile = tuple[int, torch.Tensor]
"""The token id that a tile starts at, and its logits: float32, shape [rows, part of the vocabulary]."""


def tile_width(device: torch.device) -> int:
    """Give the number of columns of a tile of `TILE_ROWS` rows: few on a CPU, for its cache; more elsewhere, for fewer kernels.

    Args:
        device: Where the tile is computed.

    Returns:
        Number of token ids.
    """
    return (_CPU_TILE if device.type == "cpu" else HEAD_BLOCK) // TILE_ROWS


def head_logits(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Apply an output layer with float32 results, whatever the types and autocast.

    A logit in half precision would round a log-prob by up to 0.1.

    Args:
        states: Hidden states. Shape [rows, width].
        weight: Weight of the layer. Shape [vocabulary, width].
        bias: Bias of the layer, shape [vocabulary]; None: it has none.

    Returns:
        Logits. float32, shape [rows, vocabulary].
    """
    with torch.autocast(states.device.type, enabled=False):
        if states.is_cuda and torch.float32 not in (states.dtype, weight.dtype):
            logits = torch.mm(states, weight.T.to(states.dtype), out_dtype=torch.float32)
        else:
            logits = torch.nn.functional.linear(states.float(), weight.float())
        return logits if bias is None else logits + bias.float()


def logit_tiles(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    finish: Callable[[torch.Tensor], torch.Tensor] | None,
    never: torch.Tensor | None = None,
) -> Iterable[Tile]:
    """Compute the logits of some rows, one tile of the vocabulary after the other.

    Args:
        states: Hidden states. Shape [rows, width].
        weight: Weight of the output layer. Shape [vocabulary, width].
        bias: Bias of the output layer, shape [vocabulary]; None: it has none.
        finish: What the architecture does to each logit; None: nothing.
        never: Whether a token has no probability. bool, shape [vocabulary]; None: all have one.

    Yields:
        The tiles.
    """
    width = tile_width(states.device)
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = head_logits(states, weight[part], None if bias is None else bias[part])
        logits = logits if finish is None else finish(logits)
        yield start, logits if never is None else logits.masked_fill_(never[part], -torch.inf)


def read_tiles(
    tiles: Iterable[Tile], targets: torch.Tensor, want: frozenset[Quantity], top: int
) -> dict[str, torch.Tensor]:
    """Read what is asked for from rows of logits that come in tiles.

    Args:
        tiles: The tiles. Each is overwritten.
        targets: Token whose logit and log-prob are wanted in each row. int64, shape [rows].
        want: Quantities to return. ``hidden`` is none of them.
        top: How many of the likeliest tokens ``topk`` returns.

    Returns:
        By name what is wanted of: ``logit``, ``logsumexp`` and ``logprob`` (float64, shape [rows]); ``topk_ids`` (int64) and
        ``topk_logprobs`` (float64), shape [rows, k], most likely first.
    """
    rows, device = len(targets), targets.device
    # The lowest finite number, not -inf: a tile of nothing but -inf would give NaN.
    largest = torch.full((rows,), torch.finfo(torch.float32).min, device=device)
    total = torch.zeros(rows, device=device)
    logit = torch.zeros(rows, device=device)
    best = torch.zeros((rows, 0), device=device)
    best_ids = torch.zeros((rows, 0), dtype=torch.long, device=device)
    for start, logits in tiles:
        # The logit of the target, where this tile has it.
        column = targets - start
        inside = (column >= 0) & (column < logits.shape[1])
        found = logits.gather(1, column.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        logit = torch.where(inside, found, logit)
        # The likeliest so far.
        if "topk" in want:
            values, ids = logits.topk(min(top, logits.shape[1]), dim=-1)
            merged, order = torch.cat([best, values], 1).topk(min(top, best.shape[1] + values.shape[1]), dim=-1)
            best, best_ids = merged, torch.cat([best_ids, ids + start], 1).gather(1, order)
        # The sum so far, relative to the largest logit so far.
        new = torch.maximum(largest, logits.amax(dim=-1))
        total = total * (largest - new).exp() + logits.sub_(new[:, None]).exp_().sum(dim=-1)
        largest = new
    logsumexp = largest + total.log()
    everything = {
        "logit": logit.double(),
        "logsumexp": logsumexp.double(),
        "logprob": (logit - logsumexp).double(),
        "topk_ids": best_ids,
        "topk_logprobs": (best - logsumexp[:, None]).double(),
    }
    return {name: value for name, value in everything.items() if name.split("_")[0] in want}
