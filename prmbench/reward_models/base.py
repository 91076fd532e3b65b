"""What every reward model can do, and the registry of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.loading import LoadOptions
from prmbench.errors import UserError, nearest
from prmbench.reward_models.card import Card
from prmbench.reward_models.marks import MarkEncoder
from prmbench.reward_models.objectives import meaning_of


@dataclass(frozen=True)
class StepScores:
    """The scores of one trace's steps; either sums (token-valued kinds) or scores (step-valued kinds) is given.

    Attributes:
        n_tokens: int64, shape [n_steps]: tokens that belong to each step.
        sums: float64, shape [n_steps]: token values summed over each step, before beta. All four protocols follow.
        scores: float64, shape [n_steps]: one score a step, in logit space (higher: more likely right).
        votes: of a critic, instead of either: each the index of the first wrong step, -1 for none, or None where the text held
            no verdict.
    """

    n_tokens: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None
    votes: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class LoadRequest:
    """What a kind needs to load a checkpoint.

    Attributes:
        folder: the checkpoint. source: its name as the user gave it. card: its card with the user's flags over it.
        reference: pi_ref, a local folder or Hub id, or None. chat_template: Jinja text to use instead of the tokenizer's.
        engine: hf or vllm; a kind refuses one that does not give what it needs.
        reference_cache: whether log-probs of the reference are kept between runs (`prmbench.engines.reference_cache`).
    """

    folder: Path
    source: str
    card: Card
    reference: str | None
    chat_template: str | None
    options: LoadOptions
    engine: str = "hf"
    reference_cache: bool = True

    def refuse_engine(self, needs: str) -> None:
        """Raise UserError unless the engine is hf: for kinds that need what only it gives."""
        if self.engine != "hf":
            raise UserError(
                f"--engine {self.engine}: gives log-probs only, {self.card.kind} needs {needs}; use --engine hf"
            )

    def refuse_reference(self) -> None:
        """Raise UserError when there is a reference: for kinds that score with one model alone."""
        if self.reference is not None:
            raise UserError(
                f"--reference: {self.card.kind} scores with one model alone; leave it out, or use --kind implicit"
            )


class RewardModel(ABC):
    """A model that scores the steps of a trace.

    A kind sets `encoder`, `vocabulary` and `max_length` in its `load`, and implements `token_values` (a value for every
    response token, whose sums over steps are the scores) or, when it is step-valued, `score`.

    Attributes:
        kind: the name it is registered under. card: its settings.
        step_valued: whether `score` gives one score a step instead of sums of token values. predicts: whether it gives votes for
            the first wrong step instead of scores. reads: which of the card's marks, pair and generation the kind uses.
        own_layout: whether it shows a trace in a way of its own (the bare problem, step by step), not as a policy sees it.
        batch_tokens: padded tokens of a batch where nothing else is said; None: what suits scoring on the device.
        hashes: weights hash (sha256) by role: "model", "reference", ...
        facts: architecture, size and the like, for provenance.
        source: the checkpoint as the user named it. engine: what computes its tokens.
    """

    kind: ClassVar[str]
    step_valued: ClassVar[bool] = False
    predicts: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset()
    own_layout: ClassVar[bool] = False
    batch_tokens: int | None = None
    card: Card
    encoder: TraceEncoder | MarkEncoder
    vocabulary: int
    max_length: int | None
    hashes: dict[str, str]
    facts: dict[str, Any]
    source: str
    engine: str = "hf"

    @property
    def cached_tokens(self) -> int:
        """Tokens, since loading, whose reference log-probs were in the cache; 0 for kinds without a reference."""
        return 0

    @abstractmethod
    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type, e.g. ``("cpu", "float32")``."""

    @classmethod
    @abstractmethod
    def load(cls, request: LoadRequest) -> RewardModel:
        """Load from a checkpoint folder. Raises UserError when something is missing or wrong, before any scoring."""

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """A value, before beta, for every response token of each trace. Each float64, shape [t]."""
        raise NotImplementedError(f"{type(self).__name__} gives no token values")

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Score one batch of encoded traces, in order: here, token values summed over each step."""
        found = self.token_values(batch)
        return [
            StepScores(trace.step_counts(), trace.step_sums(values)) for trace, values in zip(batch, found, strict=True)
        ]

    def encode(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """Token ids of a trace as this model wants them.

        Raises:
            UserError: the tokenizer gives an id that the model's vocabulary lacks.
        """
        encoded = self.encode_trace(problem, steps)
        if int(encoded.ids.max()) >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives id {int(encoded.ids.max())}, the model's vocabulary ends at {self.vocabulary - 1}; "
                "tokenizer and weights are not from one checkpoint"
            )
        return encoded

    def scoring(self) -> dict[str, Any] | None:
        """What else decides the scores and belongs into an entry; None: nothing."""
        return None

    def encode_trace(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """What `encode` checks and returns: here, the encoder's own."""
        return self.encoder.encode(problem, steps)

    def fixed_thresholds(self) -> dict[str, float]:
        """Protocols whose logit is that of a probability of correctness, with the logit of probability 0.5.

        Implicit PRM's sum is such a logit (Eq. 4), and so is IPVRM's v_bar: with a margin m the optimum is at
        p = s(v + m) / (s(v + m) + s(m - v)), s the sigmoid, which is 0.5 at v = 0 for every m (DESIGN 4.7). DPO's sum and
        EndoRM's rewards are defined up to a constant only.
        """
        meaning = meaning_of(self.card.objective, self.kind)
        return {"prefix_mean" if meaning.final == "token_mean" else "prefix": 0.0} if meaning.is_logit else {}


Kind = TypeVar("Kind", bound=type[RewardModel])
_KINDS: dict[str, type[RewardModel]] = {}


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make a kind known under `name` (in cards and for ``--kind``)."""

    def add(cls: Kind) -> Kind:
        cls.kind = name
        _KINDS[name] = cls
        return cls

    return add


def find_kind(name: str) -> type[RewardModel]:
    """The class registered under `name`. Raises UserError, with the nearest name, when there is none."""
    if name not in _KINDS:
        raise UserError(f"kind '{name}' is not known{nearest(name, _KINDS)}; known: {', '.join(sorted(_KINDS))}")
    return _KINDS[name]
