"""The Hugging Face engine: run token ids through a model once, return only what is asked for (DESIGN 3).

Log-probs come from hidden states, a tile of rows and vocabulary at a time, in float32 (`prmbench.engines.hf.head`): the full
``[batch, sequence, vocabulary]`` logits never exist. Batches are padded on the right and run without an attention mask: in a
causal model no real position looks at what follows it, and attention kernels are faster without a mask.

Tolerance: in float32 a sequence's log-probs do not depend on what else is in its batch by more than 1e-4 a token (the
tests hold it to that; matrix kernels sum in another order for another shape). The same batch gives the same bits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.head import (
    HEAD_BLOCK,
    TILE_ROWS,
    Tile,
    head_logits,
    logit_tiles,
    read_tiles,
)
from prmbench.engines.loading import eos_ids, trained_length
from prmbench.engines.types import QUANTITIES, Quantity, TokenScores
from prmbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.engines.sampling import Completion, Request, SamplingParams


class HFEngine:
    """Scores token ids with a transformers causal language model.

    Args:
        model: in eval mode, on its device.
        source: what to call it in errors.

    Attributes:
        cached_ways: ways of batching in which `generate` has found the model's cache to hold.

    Raises (on construction):
        UserError: the model's logits are not what its output layer gives from its last hidden state, nor that with
            one of the logit scalings known here, so that chunked log-probs would be wrong.
    """

    name = "hf"
    provides: frozenset[Quantity] = frozenset(QUANTITIES)

    def __init__(self, model: PreTrainedModel, source: str = "the model") -> None:
        self.model = model
        self.source = source
        self.trunk = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.cached_ways: set[tuple[bool, ...]] = set()
        self._weight32: torch.Tensor | None = None
        self.finish = self._find_logit_map()

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self.head.weight.shape[0])

    @property
    def max_length(self) -> int | None:
        """Longest sequence the model was built for, where its config says. See `prmbench.engines.loading.trained_length`."""
        return trained_length(self.model)

    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type."""
        return str(self.device), str(self.head.weight.dtype).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """Architecture and size, for provenance."""
        return {
            "architecture": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def eos_ids(self) -> list[int]:
        """Token ids that the checkpoint's own generation settings stop at."""
        return eos_ids(self.model)

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request, as one batch. See `prmbench.engines.hf.generate.generate`."""
        from prmbench.engines.hf.generate import generate

        return generate(self, requests, stop, params, seed)

    @torch.inference_mode()
    def score(
        self,
        sequences: Sequence[NDArray[np.int64]],
        first: Sequence[int],
        want: frozenset[Quantity],
        *,
        top: int = 0,
    ) -> list[TokenScores]:
        """Score one batch.

        Args:
            sequences: token ids, each int64, shape [length].
            first: per sequence, the position (at least 1) of the first token asked for; all from there to the end are.
            want: what to return.
            top: k of "topk".

        Raises:
            ValueError: an unknown quantity, or a token outside the vocabulary.
            torch.OutOfMemoryError: the batch does not fit; see `run_batches`.
        """
        if unknown := want - self.provides:
            raise ValueError(f"unknown quantities {sorted(unknown)}; this engine gives {sorted(self.provides)}")
        targets = np.concatenate([ids[start:] for ids, start in zip(sequences, first, strict=True)])
        if len(targets) and targets.max() >= self.vocabulary:
            raise ValueError(f"token {targets.max():,} is outside the output layer's {self.vocabulary:,}")
        before = [np.arange(start - 1, len(ids) - 1) for ids, start in zip(sequences, first, strict=True)]
        picked = states_at(self.trunk, self.device, sequences, before)
        found = self._head_scores(picked, torch.from_numpy(targets).to(self.device), want, top)
        edges = np.cumsum([0, *(len(positions) for positions in before)])
        return [
            TokenScores(**{name: values[start:end] for name, values in found.items()})
            for start, end in itertools.pairwise(edges)
        ]

    def _head_scores(
        self, states: torch.Tensor, targets: torch.Tensor, want: frozenset[Quantity], top: int
    ) -> dict[str, np.ndarray]:
        parts: dict[str, list[torch.Tensor]] = {}
        if "hidden" in want:
            parts["hidden"] = [states.float().cpu()]
        if want - {"hidden"}:
            whole_rows = type(self.head) is not torch.nn.Linear  # an adapter on the output layer
            rows = max(1, HEAD_BLOCK // self.vocabulary) if whole_rows else TILE_ROWS
            for part, tokens in zip(states.split(rows), targets.split(rows), strict=True):
                if whole_rows:
                    tiles: Iterable[Tile] = [(0, self.logits(part))]
                else:
                    tiles = logit_tiles(part, self._head_weight(), self.head.bias, self.finish)
                for name, value in read_tiles(tiles, tokens, want, top).items():
                    parts.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values).numpy() for name, values in parts.items()}

    @torch.inference_mode()
    def next_logprobs(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probs of tokens at last hidden states that `score` gave.

        Args:
            states: float32, shape [rows, width]. tokens: int64, shape [rows, k].

        Returns:
            float64, shape [rows, k].
        """
        logits = self.logits(torch.from_numpy(states).to(self.device, self.head.weight.dtype))
        wanted = logits.gather(1, torch.from_numpy(tokens).to(self.device))
        return (wanted - torch.logsumexp(logits, dim=-1, keepdim=True)).double().cpu().numpy()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """The model's logits at last hidden states. states: shape [rows, width]; float32, shape [rows, vocabulary]."""
        logits = self._logits(states)
        return logits if self.finish is None else self.finish(logits)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        if type(self.head) is not torch.nn.Linear:  # an adapter on the output layer
            return self.head(states).float()
        return head_logits(states, self._head_weight(), self.head.bias)

    def _head_weight(self) -> torch.Tensor:
        weight = self.head.weight
        if weight.dtype != torch.float32 and not weight.is_cuda:
            if self._weight32 is None:  # once, not every block
                self._weight32 = weight.detach().float()
            return self._weight32
        return weight

    @torch.inference_mode()
    def _find_logit_map(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Find what this architecture does to the output layer's result (None: nothing), by comparing with its own forward."""
        config = self.model.config.get_text_config()
        ids = torch.arange(1, 5, device=self.device)[None] % self.vocabulary
        whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
        plain = self._logits(self.trunk(input_ids=ids, use_cache=False).last_hidden_state[0])
        tolerance = 1e-3 if self.head.weight.dtype == torch.float32 else 0.05
        cap = getattr(config, "final_logit_softcapping", None)
        # What the config declares comes first: on weak logits a soft cap is within half-precision rounding of none.
        known: list[Callable[[torch.Tensor], torch.Tensor] | None] = []
        if cap:
            known.append(lambda x: torch.tanh(x / cap) * cap)
        for name in ("logit_scale", "lm_head_multiplier"):
            if scale := getattr(config, name, None):
                known.append(functools.partial(torch.mul, scale))
        if scaling := getattr(config, "logits_scaling", None):
            known.append(functools.partial(torch.mul, 1 / scaling))
        for change in [*known, None]:
            mine = plain if change is None else change(plain)
            if torch.allclose(mine, whole, atol=tolerance * float(whole.abs().max().clamp(min=1)), rtol=0):
                return change
        raise UserError(
            f"{self.source}: a {config.model_type} model changes its logits in a way that is not known here; "
            "its log-probs would be wrong"
        )


def states_at(
    trunk: torch.nn.Module,
    device: torch.device,
    sequences: Sequence[NDArray[np.int64]],
    positions: Sequence[NDArray[np.int64]],
) -> torch.Tensor:
    """Run one batch through a decoder and keep its last hidden states at some positions.

    Args:
        sequences: token ids, each int64, shape [length]. positions: per sequence, int64, shape [n].

    Returns:
        shape [sum of n, width], in the order given; the model's dtype.
    """
    padded = torch.zeros((len(sequences), max(len(ids) for ids in sequences)), dtype=torch.long)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = torch.from_numpy(ids)
    states = trunk(input_ids=padded.to(device), use_cache=False).last_hidden_state
    counts = torch.tensor([len(one) for one in positions])
    rows = torch.repeat_interleave(torch.arange(len(sequences)), counts).to(device)
    columns = torch.from_numpy(np.concatenate(positions)).to(device)
    picked: torch.Tensor = states[rows, columns]
    return picked
