"""The Hugging Face engine: it runs token ids through a model once and returns only what is asked for.

Log-probs come from hidden states, a tile of rows and vocabulary at a time, in float32 (`prmbench.engines.hf.head`): the full
``[batch, sequence, vocabulary]`` logits never exist. Batches are padded on the right and run without an attention mask: in a
causal model no real position looks at what follows it, and attention kernels are faster without a mask.

In float32 what else is in its batch changes the log-prob of a token by at most 1e-4. The tests hold the engine to that; matrix
kernels sum in another order for another shape. The same batch gives the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.generate import generate
from prmbench.engines.hf.head import HEAD_BLOCK, TILE_ROWS, Tile, head_logits, logit_tiles, read_tiles
from prmbench.engines.hf.prefix_store import PrefixStore
from prmbench.engines.hf.states import attention_facts, half_for_flash, read_states
from prmbench.engines.load import decoder_of, eos_ids, trained_length
from prmbench.engines.logit_maps import LogitMap, declared_logit_maps
from prmbench.engines.sampling import Completion, Request, SamplingParams
from prmbench.engines.types import QUANTITIES, Quantity, TokenScores
from prmbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFEngine:
    """Computes with a causal language model of transformers.

    Attributes:
        model: The model.
        source: What errors call the checkpoint.
        provides: Quantities that `score` gives, which are all.
        trunk: Its decoder.
        head: Its output layer.
        finish: What its architecture does to each logit of the output layer; None: nothing.
        never: Whether a token has no probability. bool, shape [vocabulary]; None: all have one.
        device: Where it computes.
        cached_ways: Ways of batching in which `generate` has found the cache of the model to hold.
        prefixes: What its decoder knows of prefixes, which `score` then does not run again; None: every sequence is run whole.
    """

    name = "hf"
    provides: frozenset[Quantity] = frozenset(QUANTITIES)

    def __init__(
        self, model: PreTrainedModel, source: str = "the model", allowed: NDArray[np.int64] | None = None
    ) -> None:
        """Take a model.

        Args:
            model: A model in eval mode, on its device.
            source: What errors call the checkpoint.
            allowed: Token ids that have a probability; None: all. Others get a logit of minus infinity everywhere.

        Raises:
            UserError: The logits of the model are not what its output layer gives from its last hidden state, with or without one
                of the logit scalings known here. Log-probs that are computed in tiles would be wrong.
        """
        self.model = model
        self.source = source
        self.trunk = decoder_of(model)
        self.head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.cached_ways: set[tuple[bool, ...]] = set()
        self.prefixes: PrefixStore | None = None
        self._weight32: torch.Tensor | None = None
        self.finish = self._find_logit_map()
        self.never: torch.Tensor | None = None
        if allowed is not None and len(never := np.setdiff1d(np.arange(self.vocabulary), allowed)):
            self.never = torch.zeros(self.vocabulary, dtype=torch.bool, device=self.device)
            self.never[torch.from_numpy(never)] = True

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""
        return int(self.head.weight.shape[0])

    @property
    def max_length(self) -> int | None:
        """Longest sequence. See `prmbench.engines.load.trained_length`."""
        return trained_length(self.model)

    @property
    def has_plain_head(self) -> bool:
        """Whether its output layer is a plain one; the wrapper of an adapter computes otherwise."""
        return type(self.head) is torch.nn.Linear

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        return str(self.device), str(self.head.weight.dtype).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """Say architecture, size and attention, for provenance."""
        return {
            "architecture": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **attention_facts(self.trunk),
        }

    def eos_ids(self) -> list[int]:
        """List the token ids that the checkpoint's own generation settings stop at."""
        return eos_ids(self.model)

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request, as one batch. See `prmbench.engines.hf.generate.generate`.

        Args:
            requests: What is to be sampled.
            stop: Token ids that end a completion.
            params: How tokens are chosen.
            seed: Seed of all random numbers.

        Returns:
            Completions in the order of the requests.
        """
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
        """Score one batch. See `prmbench.engines.types.Engine.score`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            first: Position, at least 1, of the first token asked for in each sequence.
            want: Quantities to return.
            top: How many of the likeliest tokens ``topk`` returns.

        Returns:
            What was asked for, one for each sequence.

        Raises:
            ValueError: A quantity is not known, or a token is outside the vocabulary.
            torch.OutOfMemoryError: The batch does not fit. See `prmbench.engines.batching.BatchRunner`.
        """
        if unknown := want - self.provides:
            raise ValueError(f"unknown quantities {sorted(unknown)}; this engine gives {sorted(self.provides)}")
        targets = np.concatenate([ids[start:] for ids, start in zip(sequences, first, strict=True)])
        if len(targets) and targets.max() >= self.vocabulary:
            raise ValueError(f"token {targets.max():,} is outside the output layer's {self.vocabulary:,}")
        before = [np.arange(start - 1, len(ids) - 1) for ids, start in zip(sequences, first, strict=True)]
        picked = self.states(sequences, before)
        found = self._head_scores(picked, torch.from_numpy(targets).to(self.device), want, top)
        edges = np.cumsum([0, *(len(positions) for positions in before)])
        return [
            TokenScores(**{name: values[start:end] for name, values in found.items()})
            for start, end in itertools.pairwise(edges)
        ]

    def states(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Give last hidden states at some positions, of what is kept of prefixes where anything is. See `states_at`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].
        """
        if self.prefixes is not None:
            return self.prefixes.states(sequences, positions)
        return states_at(self.trunk, self.device, sequences, positions)

    def _head_scores(
        self, states: torch.Tensor, targets: torch.Tensor, want: frozenset[Quantity], top: int
    ) -> dict[str, np.ndarray]:
        parts: dict[str, list[torch.Tensor]] = {}
        if "hidden" in want:
            parts["hidden"] = [states.float().cpu()]
        if want - {"hidden"}:
            rows = TILE_ROWS if self.has_plain_head else max(1, HEAD_BLOCK // self.vocabulary)
            for part, tokens in zip(states.split(rows), targets.split(rows), strict=True):
                tiles: Iterable[Tile] = (
                    logit_tiles(part, self._head_weight(), self.head.bias, self.finish, self.never)
                    if self.has_plain_head
                    else [(0, self.logits(part))]
                )
                for name, value in read_tiles(tiles, tokens, want, top).items():
                    parts.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values).numpy() for name, values in parts.items()}

    @torch.inference_mode()
    def next_logprobs(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute log-probs of tokens at last hidden states that `score` gave.

        Args:
            states: Hidden states. float32, shape [rows, width].
            tokens: Token ids. int64, shape [rows, k].

        Returns:
            Log-probs. float64, shape [rows, k].
        """
        logits = self.logits(torch.from_numpy(states).to(self.device, self.head.weight.dtype))
        wanted = logits.gather(1, torch.from_numpy(tokens).to(self.device))
        return (wanted - torch.logsumexp(logits, dim=-1, keepdim=True)).double().cpu().numpy()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Compute the logits of the model at last hidden states.

        Args:
            states: Hidden states. Shape [rows, width].

        Returns:
            Logits. float32, shape [rows, vocabulary].
        """
        logits = self._logits(states)
        logits = logits if self.finish is None else self.finish(logits)
        return logits if self.never is None else logits.masked_fill(self.never, -torch.inf)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        if not self.has_plain_head:
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
    def _find_logit_map(self) -> LogitMap | None:
        """Find what this architecture does to the logits of its output layer, by comparing with its own forward."""
        config = self.model.config.get_text_config()
        ids = torch.arange(1, 5, device=self.device)[None] % self.vocabulary
        half = half_for_flash(self.model)
        with half:
            whole = self.model(input_ids=ids, use_cache=False).logits[0].float()
            plain = self._logits(self.trunk(input_ids=ids, use_cache=False).last_hidden_state[0])
        exact = self.head.weight.dtype == torch.float32 and not isinstance(half, torch.autocast)
        tolerance = 1e-3 if exact else 0.05
        # What the config declares comes first: on weak logits a soft cap is within half-precision rounding of none.
        known = declared_logit_maps(config)
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
        trunk: The decoder.
        device: Where it computes.
        sequences: Token ids of each sequence. int64, shape [length].
        positions: Positions in each sequence. int64, shape [n].

    Returns:
        Shape [sum of n, width], in the order given. The dtype is that of the model.
    """
    padded = torch.zeros((len(sequences), max(len(ids) for ids in sequences)), dtype=torch.long)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = torch.from_numpy(ids)
    counts = torch.tensor([len(one) for one in positions])
    rows = torch.repeat_interleave(torch.arange(len(sequences)), counts).to(device)
    columns = torch.from_numpy(np.concatenate(positions)).to(device)
    return read_states(trunk, padded.to(device), rows, columns)
