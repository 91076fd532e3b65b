"""Scoring paths with a reward model of any kind, from what is kept of each prefix."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import PromptTemplate
from prmbench.data.tokens import EncodedTrace, TraceEncoder, split_response
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.prefix_store import PrefixStore
from prmbench.engines.hf.trunk import Trunk
from prmbench.errors import ArgumentError, UserError, argument
from prmbench.policies.policy import Policy
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.endo import EndoRewardModel
from prmbench.reward_models.implicit import ImplicitRewardModel
from prmbench.reward_models.marked import MarkedRewardModel
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.q_rm import QRewardModel
from prmbench.reward_models.response_scores import STEP_NAMES, TOKEN_NAMES, scores_of_steps, scores_of_tokens
from prmbench.reward_models.token_pair import TokenPairRewardModel
from prmbench.search.compute import ModelShape, shape_of
from prmbench.search.paths import Cost, Ids, Path, Task

BY_TOKEN = (ImplicitRewardModel, QRewardModel, EndoRewardModel)
"""Kinds whose value of a token follows from the tokens up to it, or from the one after it in the same part."""


@dataclass(frozen=True, eq=False)
class Read:
    """What the scorer keeps of a path.

    Attributes:
        ids: The tokens that the model read, its prompt included. int64, shape [p + t].
        values: The value of each response token so far, before beta. float64, shape [t]; empty for models that score steps.
    """

    ids: Ids
    values: NDArray[np.float64]


class ModelScorer:
    """Scores paths with a reward model. See `prmbench.search.paths.Scorer`.

    The score of a path is one that Best-of-N has of a whole response (`prmbench.reward_models.response_scores`), taken of what is
    there of it. So of a path that has ended it is the very score that Best-of-N chooses by.

    A model with the policy's vocabulary, whose values are of tokens, gives values of the new tokens alone. All others see the
    response so far. On the hf engine neither runs a token again whose state is kept.

    Attributes:
        model: The reward model.
        how: Which score it is.
        convention: How the model scores a whole response.
    """

    def __init__(self, model: RewardModel, policy: Policy, prompt: PromptTemplate, how: str, own: Convention) -> None:
        """Look at what the model needs.

        Args:
            model: The reward model.
            policy: The policy whose responses are scored.
            prompt: How problems are put to the policy.
            how: Which score; ``own``: as the model was trained.
            own: How the model scores a whole response.

        Raises:
            UserError: A model that gives no scores, or none of this name.
        """
        if model.predicts:
            raise UserError(
                f"a {model.kind} names the first wrong step and scores nothing; use a reward model of another kind"
            )
        known = STEP_NAMES if model.step_valued else TOKEN_NAMES
        self.how = own.own if how == "own" else how
        if self.how not in known or (self.how == "decayed_sum" and own.own != "decayed_sum"):
            raise ArgumentError("score", how, f"a {model.kind} has {', '.join(known)}")
        self.model, self.policy, self.prompt, self.convention = model, policy, prompt, own
        same = model.encoder.tokenizer.get_vocab() == policy.encoder.tokenizer.get_vocab()
        self.by_token = isinstance(model, BY_TOKEN) and same
        decoders = model.decoders()
        self._shapes: list[ModelShape] | None = None if decoders is None else []
        for one in decoders or []:
            shape = shape_of(one)
            self._shapes = None if shape is None or self._shapes is None else [*self._shapes, shape]
        self._held: list[tuple[PrefixStore, Callable[[], contextlib.AbstractContextManager[Any]]]] = []
        self._read: dict[str, Ids] = {}
        self.limit = model.max_length

    @contextlib.contextmanager
    def keeping(self) -> Iterator[ModelScorer]:
        """Have the model's decoders keep the states of prefixes within a context.

        Yields:
            The scorer.
        """
        model, undo = self.model, contextlib.ExitStack()
        if isinstance(model, ImplicitRewardModel):
            model.reference.stop_caching()
        for one in {id(one): one for one in model.decoders() or []}.values():
            if isinstance(one, HFEngine | Trunk):
                undo.enter_context(self._kept(one))
        if isinstance(model, ImplicitRewardModel) and model.reference.engine() is model.model:
            undo.enter_context(self._other_weights(model))
        try:
            with undo:
                yield self
        finally:
            self._held = []

    @property
    def stores(self) -> list[PrefixStore]:
        """What the model's decoders know of prefixes."""
        return [store for store, _ in self._held]

    @contextlib.contextmanager
    def _kept(self, one: HFEngine | Trunk) -> Iterator[None]:
        trunk = one.trunk if isinstance(one, HFEngine) else one.model
        before, one.prefixes = one.prefixes, PrefixStore(trunk, one.device)
        self._held.append((one.prefixes, contextlib.nullcontext))
        try:
            yield
        finally:
            one.prefixes = before

    @contextlib.contextmanager
    def _other_weights(self, model: ImplicitRewardModel) -> Iterator[None]:
        """Give a reference that is the model with its adapter switched off a store of its own: its states are other ones."""
        engine, off = model.model, model.reference.switched
        if not isinstance(engine, HFEngine):
            yield
            return
        store = PrefixStore(engine.trunk, engine.device)
        self._held.append((store, off))

        @contextlib.contextmanager
        def switched() -> Iterator[None]:
            before = engine.prefixes
            engine.prefixes = store
            try:
                with off():
                    yield
            finally:
                engine.prefixes = before

        model.reference.switched = switched
        try:
            yield
        finally:
            model.reference.switched = off

    # What a search asks

    def begin(self, task: Task) -> Cost:
        """Say what the prompt costs.

        Args:
            task: The search.
        """
        n = len(self._prompt(task))
        return Cost(scored=n, model_flops=self._flops(0, n, 0))

    def score(self, grown: Sequence[tuple[Task, Path, Path]]) -> list[tuple[float, Any, Cost]]:
        """Score paths.

        Args:
            grown: The search, the path that was there before, and the longer one.

        Raises:
            UserError: A response that is longer than the model's positions, or a score that is no number.
        """
        if not grown:
            return []
        befores = [Read(self._prompt(task), np.zeros(0)) if old.kept is None else old.kept for task, old, _ in grown]
        texts = [self._text(path) for _, _, path in grown]
        traces = [
            self._encode(task, path, text, before)
            for (task, _, path), text, before in zip(grown, texts, befores, strict=True)
        ]
        self._check_length(grown, traces)
        # What was there before runs first, once for all paths that go on from it.
        for store, weights in self._held:
            with weights():
                store.advance([before.ids for before in befores])
        reads = self._read_traces(traces, befores)
        out: list[tuple[float, Any, Cost]] = []
        kept = bool(self.stores) and all(store.works for store in self.stores)
        for (task, _, path), text, trace, before, found in zip(grown, texts, traces, befores, reads, strict=True):
            values = np.zeros(0) if self.model.step_valued else found
            score = self._score(path, text, found, task)
            if math.isnan(score):
                raise UserError(
                    f"a response to problem {task.key}: the model gives a NaN score; try {argument('dtype', 'float32')}"
                )
            start = _common(before.ids, trace.ids) if kept else 0
            marks = trace.n_steps if isinstance(self.model, TokenPairRewardModel) else len(trace) - start
            cost = Cost(scored=len(trace) - start, model_flops=self._flops(start, len(trace), marks))
            out.append((score, Read(trace.ids, values), cost))
        return out

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        """Forget the state of all paths but some.

        Args:
            live: The paths that may still grow.
        """
        ids = [self._prompt(task) if path.kept is None else path.kept.ids for task, path in live]
        for store in self.stores:
            store.keep(ids)

    def _prompt(self, task: Task) -> Ids:
        """The tokens that the model reads before a response; none where that is not known."""
        if task.problem not in self._read:
            model, encoder = self.model, self.model.encoder
            if isinstance(encoder, TraceEncoder) and not model.own_layout:
                ids = encoder.prompt_ids(self.prompt.render(task.problem))
            elif isinstance(model, MarkedRewardModel):
                shown = model.encode(task.problem, [""])
                ids = shown.ids[: shown.n_prompt]
            else:
                ids = np.zeros(0, dtype=np.int64)
            self._read[task.problem] = ids
        return self._read[task.problem]

    def _text(self, path: Path) -> str:
        text: str = self.policy.encoder.tokenizer.decode(path.ids, skip_special_tokens=True)
        # A step's end is not yet followed by a step: without it, the next step is not there and empty.
        return text if path.end else text.rstrip()

    def _encode(self, task: Task, path: Path, text: str, before: Read) -> EncodedTrace:
        if self.by_token:
            ids = np.concatenate([self._prompt(task), path.ids])
            new = len(ids) - len(before.ids)
            return EncodedTrace(ids, len(before.ids), np.zeros(new, dtype=np.int64), 1)
        encoder = self.model.encoder
        if self.model.own_layout or not isinstance(encoder, TraceEncoder):
            return self.model.encode(task.problem, split_response(text, encoder.options.separator))
        return encoder.encode_response(self._prompt(task), text, finished=path.end == "stop")

    def _read_traces(self, traces: Sequence[EncodedTrace], befores: Sequence[Read]) -> list[NDArray[np.float64]]:
        """The scores of all steps, or the values of all response tokens."""
        if self.model.step_valued:
            return [np.zeros(0) if one.scores is None else one.scores for one in self.model.score(traces)]
        found = self.model.token_values(traces)
        if self.by_token:
            return [np.concatenate([before.values, new]) for before, new in zip(befores, found, strict=True)]
        return found

    def _score(self, path: Path, text: str, found: NDArray[np.float64], task: Task) -> float:
        if self.model.step_valued:
            return scores_of_steps(found)[self.how]
        sums = np.zeros(0)
        if self.how in STEP_NAMES:
            assert isinstance(self.model.encoder, TraceEncoder)
            ids = path.ids if self.by_token else None
            whole = self.model.encoder.encode_response(self._prompt(task), text, ids, finished=path.end == "stop")
            sums = whole.step_sums(found)
        weighted = self.model.weighted_total(found)
        return scores_of_tokens(float(found.sum()), len(found), sums, weighted, self.convention)[self.how]

    def _flops(self, start: int, end: int, logits: int) -> float:
        if self._shapes is None:
            return math.nan
        logits = logits if isinstance(self.model, ImplicitRewardModel | EndoRewardModel | TokenPairRewardModel) else 0
        return sum((shape.forward(start, end, logits) for shape in self._shapes), 0.0)

    def _check_length(self, grown: Sequence[tuple[Task, Path, Path]], traces: Sequence[EncodedTrace]) -> None:
        for (task, _, _), trace in zip(grown, traces, strict=True):
            if self.limit is not None and len(trace) > self.limit:
                raise UserError(
                    f"a response to problem {task.key} has {len(trace):,} tokens, the reward model {self.limit:,} positions; use "
                    f"another model, or sample shorter responses ({argument('max_new_tokens')})"
                )


def _common(first: Ids, second: Ids) -> int:
    """Count the tokens that two sequences begin with."""
    n = min(len(first), len(second))
    same = first[:n] == second[:n]
    return n if same.all() else int(same.argmin())
