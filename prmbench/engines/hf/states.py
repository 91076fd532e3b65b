"""Last hidden states of a batch: of rows that are padded, or of sequences that stand in one row without padding.

Without padding, the sequences of a batch are joined into one row, and their positions begin again at 0. Attention with a mask
(eager, sdpa, flex) is then given one in which a token sees its own sequence alone; transformers makes it from the positions. It has
as many places as the row has pairs of tokens. Flash attention needs no mask: it is told where the sequences begin.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from prmbench.engines.attention import is_masked
from prmbench.errors import UserError

_OFF, _OFF_IN_HALF = 1e-3, 0.3
"""Share of a hidden state's spread that another way to the same state may change: far above rounding, far below a wrong state."""

_PROBE = (7, 5)
"""Lengths of the sequences that are run both ways to see whether a decoder can do without padding."""


def read_states(trunk: Any, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Run a batch through a decoder and give its last hidden states at some places.

    There is no attention mask: in a causal decoder no real token looks at the padding on its right. Where the decoder is one that
    runs `without_padding`, that padding, and whatever else follows a row's last place, is not run at all.

    Args:
        trunk: The decoder.
        input_ids: Token ids, padded on the right. int64, shape [b, l].
        rows: Row of each place. int64, shape [n].
        columns: Column of each place. int64, shape [n].

    Returns:
        Shape [n, width]. The dtype is that of the decoder.
    """
    with half_for_flash(trunk):
        if not getattr(trunk, "without_padding", False):
            padded: Tensor = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
            return padded[rows, columns]
        # One row, of what is needed of each sequence.
        lengths = torch.ones(len(input_ids), dtype=torch.long, device=input_ids.device)
        lengths = lengths.scatter_reduce(0, rows, columns + 1, "amax")
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        needed = positions < lengths[:, None]
        ends = lengths.cumsum(0)
        joined: Tensor = trunk(
            input_ids=input_ids[needed][None],
            position_ids=positions[needed][None],
            use_cache=False,
            **({} if is_masked(trunk.config._attn_implementation) else _edges(ends, lengths)),
        ).last_hidden_state
    return joined[0, (ends - lengths)[rows] + columns]


def _edges(ends: Tensor, lengths: Tensor) -> dict[str, Any]:
    """Where the sequences of a row begin and end, in the words of transformers; else it would ask the device in every layer."""
    edges = torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    return {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, "max_length_q": longest, "max_length_k": longest}


def half_for_flash(model: Any) -> AbstractContextManager[Any]:
    """Make the context that a model computes in outside of a trainer.

    Flash attention reads half precision alone. A model in training may have weights in float32, and computes by autocast.

    Args:
        model: A model of transformers.

    Returns:
        Autocast where weights are float32, attention is not, and there is no autocast yet; else nothing.
    """
    device = next(model.parameters()).device.type
    name = model.config.get_text_config()._attn_implementation
    if is_masked(name) or model.dtype != torch.float32 or torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, torch.bfloat16)


@torch.inference_mode()
def run_without_padding(trunk: Any, source: str) -> None:
    """Have `read_states` run the batches of a decoder without padding from now on.

    Two short sequences are run both ways, to see that each is as if it were alone.

    Args:
        trunk: The decoder; it is changed in place.
        source: What the error calls the checkpoint.

    Raises:
        UserError: The decoder mixes sequences that share a row. So does one with a recurrent state, or without positions.
    """
    config = trunk.config.get_text_config()
    trunk.without_padding = False
    # Chunks of attention are counted from the row's beginning, which short sequences do not show; a convolution hardly shows.
    fits = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    if fits and "position_ids" in inspect.signature(trunk.forward).parameters:
        device = next(trunk.parameters()).device
        ids = (torch.arange(len(_PROBE) * max(_PROBE), device=device) * 7919 + 11) % config.vocab_size
        lengths = torch.tensor(_PROBE, device=device)
        rows = torch.repeat_interleave(torch.arange(len(_PROBE), device=device), lengths)
        columns = torch.cat([torch.arange(length, device=device) for length in _PROBE])
        batch = (ids.view(len(_PROBE), -1), rows, columns)
        padded = read_states(trunk, *batch)
        trunk.without_padding = True
        trunk.without_padding = same_states(read_states(trunk, *batch), padded)
    if not trunk.without_padding:
        raise UserError(
            f"{source}: padding_free: a {config.model_type} model does not keep sequences apart that share a row; leave it out"
        )


def same_states(found: Tensor, wanted: Tensor) -> bool:
    """Say whether hidden states are the same but for rounding.

    Args:
        found: The states.
        wanted: The same, computed in another way.
    """
    exact = wanted.dtype == torch.float32 and not torch.is_autocast_enabled(wanted.device.type)
    off = (found - wanted).float().std() / wanted.float().std().clamp(min=1e-6)
    return bool(off <= (_OFF if exact else _OFF_IN_HALF))


def attention_facts(trunk: Any) -> dict[str, Any]:
    """Say how a decoder attends, for provenance, where it is not by SDPA on padded rows.

    Args:
        trunk: The decoder.
    """
    name = trunk.config.get_text_config()._attn_implementation
    return {
        **({} if name in (None, "sdpa") else {"attention": name}),
        **({"padding_free": True} if getattr(trunk, "without_padding", False) else {}),
    }
