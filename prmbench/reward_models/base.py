"""What every reward model can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import PromptTemplate
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.tokenizer import load_tokenizer, token_ids
from prmbench.engines.types import Engine
from prmbench.errors import ArgumentError, UserError
from prmbench.reward_models.card import Card
from prmbench.reward_models.marks import MarkEncoder
from prmbench.reward_models.objectives import meaning_of


def longest_scored(engine: Engine, limit: int | None) -> int | None:
    """Say how long a sequence may be whose log-probs are asked for. vLLM wants room for one token more.

    Args:
        engine: The engine that is asked.
        limit: The longest sequence of the model; None where it is not known.

    Returns:
        Number of tokens; None where it is not known.
    """
    return limit - 1 if limit and engine.name == "vllm" else limit


@dataclass(frozen=True)
class StepScores:
    """The scores of the steps of one trace. One of `sums`, `scores` and `votes` is given.

    Attributes:
        n_tokens: Number of tokens that belong to each step. int64, shape [n_steps].
        sums: Token values summed over each step, before beta, from kinds that give token values. The four protocols follow
            from them. float64, shape [n_steps].
        scores: One score a step from step-valued kinds, in logit space: the higher, the likelier right. float64,
            shape [n_steps].
        votes: Votes of a critic, each the index of the first wrong step, -1 for none, or None where its text holds no verdict.
    """

    n_tokens: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None
    votes: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class LoadRequest:
    """What a kind needs to load a checkpoint.

    Attributes:
        folder: Folder of the checkpoint.
        source: The checkpoint as the user named it.
        card: Its card, with the user's settings over it.
        reference: pi_ref as a local folder or a Hub id; None where neither the card nor the user names one.
        chat_template: Jinja text to use in place of the chat template of the tokenizer; None keeps that one.
        options: Device, dtype and whether code that the checkpoint carries may run.
        engine: What computes tokens: ``hf`` or ``vllm``.
        reference_cache: Whether log-probs of the reference are kept between runs (`prmbench.engines.reference_cache`).
    """

    folder: Path
    source: str
    card: Card
    reference: str | None
    chat_template: str | None
    options: LoadOptions
    engine: str = "hf"
    reference_cache: bool = True

    def encoder(self, folder: Path | None = None) -> TraceEncoder:
        """Make the encoder that shows a trace as a policy sees it.

        Args:
            folder: Folder of the tokenizer; None for that of the checkpoint.

        Raises:
            UserError: There is no tokenizer, or no chat template.
        """
        if self.engine == "api":
            from prmbench.engines.api.engine import chat_encoder

            return chat_encoder(self.card.tokens, self.chat_template)
        return TraceEncoder(load_tokenizer(folder or self.folder, self.options), self.card.tokens, self.chat_template)

    def language_model(self, allowed: NDArray[np.int64] | None = None) -> Engine:
        """Load the checkpoint as a language model into the engine that was asked for.

        Args:
            allowed: Token ids that may be sampled; None for all.

        Raises:
            UserError: It is none, or the engine cannot load it.
        """
        return load_engine(self.engine, self.folder, self.options, self.source, allowed=allowed)

    def refuse_engine(self, needs: str) -> None:
        """Refuse any engine but hf, for kinds that need what only that one gives of a language model.

        Args:
            needs: What the kind needs, in words; the empty string refuses nothing.

        Raises:
            ArgumentError: The engine is another one.
        """
        if needs and self.engine != "hf":
            raise ArgumentError(
                "engine", self.engine, f"gives log-probs only, {self.card.kind} needs {needs}; use the engine hf"
            )

    def refuse_reference(self) -> None:
        """Refuse a reference, for kinds that score with one model alone.

        Raises:
            ArgumentError: There is one.
        """
        if self.reference is not None:
            raise ArgumentError(
                "reference",
                self.reference,
                f"{self.card.kind} scores with one model alone; leave it out, or use kind implicit",
            )


class RewardModel(ABC):
    """A model that scores the steps of a trace.

    A kind sets the attributes below in its `load`. It implements `token_values`, a value for every response token whose sums
    over steps are the scores; or, when it is step-valued, `score`.

    Attributes:
        kind: Name of the kind.
        step_valued: Whether `score` gives one score a step instead of sums of token values.
        predicts: Whether it gives votes for the first wrong step instead of scores.
        reads: Which of the fields of a card that `loading` names in `SPECIAL` the kind uses.
        own_layout: Whether it shows a trace in a way of its own, not as a policy sees it.
        batch_tokens: Padded tokens of a batch where the user says nothing; None for what suits scoring on the device.
        card: Its card, with the user's settings over it.
        encoder: What turns a trace into token ids.
        vocabulary: Number of token ids that the model knows.
        max_length: Longest sequence in tokens that it can take; None where that is not known.
        hashes: sha256 of the weights by role, such as ``model`` and ``reference``.
        facts: Architecture, size and the like, for provenance.
        source: The checkpoint as the user named it.
        engine: What computes its tokens: ``hf`` or ``vllm``.
        warnings: What puts its scores at risk, in whole sentences.
        commits: Commits of the Hub's repositories by role, such as ``model`` and ``reference``; none of local folders.
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
    warnings: Sequence[str] = ()
    commits: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        # A model of a user's own kind may lack any of this.
        of = vars(self)
        what = ", ".join(part for part in (self.kind, getattr(of.get("card"), "objective", None)) if part)
        facts = ", ".join(f"{name} {value}" for name, value in of.get("facts", {}).items())
        where = " in ".join(self.device_and_dtype())
        return f"<{type(self).__name__} {of.get('source', '')} ({what})\n  {facts}\n  on {where}, engine {self.engine}>"

    def usage(self) -> dict[str, Any] | None:
        """What a server was asked for since loading, and what it cost; None where there is none."""
        return None

    def decoders(self) -> list[Any] | None:
        """What reads every token of a trace once: engines, or decoders. Guided search keeps their states and counts their costs.

        Returns:
            None where that is not known, such as where texts are sampled.
        """
        return None

    @property
    def cached_tokens(self) -> int:
        """Tokens, since loading, whose reference log-probs were in the cache; 0 for kinds without a reference."""
        return 0

    @classmethod
    @abstractmethod
    def load(cls, request: LoadRequest) -> RewardModel:
        """Load from a checkpoint folder.

        Args:
            request: The checkpoint and how to load it.

        Raises:
            UserError: Something is missing or wrong; nothing has been scored then.
        """

    @abstractmethod
    def device_and_dtype(self) -> tuple[str, str]:
        """Return where the model computes and in what type, such as ``("cpu", "float32")``."""

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give a value, before beta, for every response token of each trace.

        Args:
            batch: The traces, from `encode`.

        Returns:
            One array a trace. float64, shape [t].
        """
        raise NotImplementedError(f"{type(self).__name__} gives no token values")

    def weighted_total(self, values: NDArray[np.float64]) -> float | None:
        """Score a whole response in a way that is neither the sum nor the mean of its token values, before beta.

        Args:
            values: Token values of the response. float64, shape [t].

        Returns:
            The score; None for kinds whose own way is the sum or the mean.
        """
        return None

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Score the steps of a batch of traces: here, token values summed over each step.

        Args:
            batch: The traces, from `encode`.

        Returns:
            The scores of each trace, in order.
        """
        found = self.token_values(batch)
        return [
            StepScores(trace.step_counts(), trace.step_sums(values)) for trace, values in zip(batch, found, strict=True)
        ]

    def encode(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """Turn a trace into token ids as this model wants them, with the problem put as in its training.

        Args:
            problem: Text of the problem alone.
            steps: Texts of the steps.

        Raises:
            UserError: The tokenizer gives an id that the vocabulary of the model lacks.
        """
        encoded = self.encode_trace(self.card.template.render(problem), steps)
        highest = int(encoded.ids.max())
        if highest >= self.vocabulary:
            raise UserError(
                f"the tokenizer gives id {highest}, the model's vocabulary ends at {self.vocabulary - 1}; "
                "tokenizer and weights are not from one checkpoint"
            )
        return encoded

    def encode_trace(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """Turn a trace into token ids, unchecked: here, as the encoder does.

        Args:
            problem: Text of the problem, in the prompt template.
            steps: Texts of the steps.
        """
        return self.encoder.encode(problem, steps)

    def prompt_remarks(self, prompt: PromptTemplate) -> list[str]:
        """Say how the prompt that completions were sampled with differs from what the model knows. They are scored with theirs.

        Args:
            prompt: The prompt template of the completions.

        Returns:
            Whole sentences; none for models that show a problem in a way of their own.
        """
        if self.own_layout:
            return []
        remarks = []
        if self.card.prompt not in (None, prompt.name):
            remarks.append(
                f"the completions were sampled with the prompt '{prompt.name}' and are scored with it; the reward model was "
                f"trained with '{self.card.prompt}'"
            )
        shown = self.encoder.options.system
        if prompt.system != shown:
            said = [f"the system message '{one}'" if one else "no system message" for one in (prompt.system, shown)]
            remarks.append(f"the completions were sampled with {said[0]}, and are scored with {said[1]}")
        return remarks

    def scoring(self) -> dict[str, Any] | None:
        """Return what else decides the scores and belongs into an entry; None for nothing."""
        name = self.card.template.name
        return None if name == "bare" else {"prompt": name}

    def fixed_thresholds(self) -> dict[str, float]:
        """Return the protocols whose score is the logit of a probability, with the logit of probability 0.5.

        The sum of Implicit PRM is such a logit (Eq. 4), and so is v_bar of IPVRM: with a margin m the optimum is at
        p = s(v + m) / (s(v + m) + s(m - v)), s the sigmoid, which is 0.5 at v = 0 for every m. The sum of DPO and the rewards
        of EndoRM are defined up to a constant only.
        """
        meaning = meaning_of(self.card.objective, self.kind)
        return {"prefix_mean" if meaning.final == "token_mean" else "prefix": 0.0} if meaning.is_logit else {}


class EngineRewardModel(RewardModel):
    """A kind that scores with one language model in an engine.

    Attributes:
        needs: What the kind needs that only the hf engine gives, in words; empty where any engine will do.
        model: The engine that holds the language model.
    """

    needs: ClassVar[str] = ""
    model: Engine

    def __init__(self, model: Engine, encoder: TraceEncoder | MarkEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it.
        """
        self.model, self.encoder, self.card = model, encoder, card
        self.vocabulary, self.max_length = model.vocabulary, model.max_length
        self.hashes, self.facts = {}, model.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> EngineRewardModel:
        """Load the language model. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        request.refuse_reference()
        request.refuse_engine(cls.needs)
        digest = "" if request.engine == "api" else checkpoint_hash(request.folder)
        encoder = cls.make_encoder(request)
        allowed = token_ids(encoder.tokenizer) if "generation" in cls.reads else None
        model = request.language_model(allowed)
        loaded = cls(model, encoder, request.card)
        loaded.hashes, loaded.engine = {"model": digest or str(model.facts()["identity"])}, request.engine
        return loaded

    def usage(self) -> dict[str, Any] | None:
        """What a server was asked for since loading. See `RewardModel.usage`."""
        count = getattr(self.model, "usage", None)
        return count() if count else None

    @classmethod
    def make_encoder(cls, request: LoadRequest) -> TraceEncoder | MarkEncoder:
        """Make the encoder, before the weights are loaded.

        Args:
            request: The checkpoint and how to load it.
        """
        return request.encoder()

    def device_and_dtype(self) -> tuple[str, str]:
        """Return where the model computes and in what type."""
        return self.model.device_and_dtype()
