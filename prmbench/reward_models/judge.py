"""A language model as judge of every step: is it right, yes or no, straight away or after written critiques (GenPRM's manner)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.batching import BatchRunner, default_batch_tokens, plan_batches
from prmbench.engines.hf.engine import HFEngine, states_at
from prmbench.engines.loading import checkpoint_hash, load_causal_lm, load_tokenizer
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel, StepScores, register
from prmbench.reward_models.card import Card, Generation
from prmbench.reward_models.generation import Ids, room_for, write
from prmbench.stats.protocols import STEP_PROTOCOL

PROMPT = """Here is a math problem and the beginning of a solution to it, step by step.

<problem>
{problem}
</problem>

{steps}

Check step {number}, the last one: does it follow from the problem and the steps before it, and are its calculations right? \
Explain your check, then give the judgement, Yes if the step is right or No if it is wrong, in \\boxed{}."""

VERDICT = "Judgement: \\boxed{"
"""Written for the model, which then says yes or no: so that every step has a verdict."""


def judge_prompt(problem: str, steps: Sequence[str]) -> str:
    """The user's message about the last of these steps. Only the three marks are replaced: braces in the texts are safe."""
    shown = "\n\n".join(f"<step_{i}>\n{step}\n</step_{i}>" for i, step in enumerate(steps, start=1))
    before, _, rest = PROMPT.partition("{problem}")
    middle, _, rest = rest.partition("{steps}")
    ask, _, after = rest.partition("{number}")
    return f"{before}{problem}{middle}{shown}{ask}{len(steps)}{after}"


def mean_log_odds(log_odds: NDArray[np.float64]) -> float:
    """Log-odds of the mean of probabilities that are given as log-odds (float64, shape [n]); never saturates."""
    right = -np.logaddexp(0, -log_odds)
    wrong = -np.logaddexp(0, log_odds)
    return float(np.logaddexp.reduce(right) - np.logaddexp.reduce(wrong))


@dataclass(frozen=True)
class JudgeTrace(EncodedTrace):
    """The prompts that show a trace to a judge, one a step.

    Attributes:
        ids: all prompts, one after the other. prompts: each. rooms: tokens that a critique of each may have.
        counts: int64, shape [n_steps]: tokens of each step's own text. longest: tokens of the longest sequence, all included.
    """

    prompts: tuple[Ids, ...]
    rooms: tuple[int, ...]
    counts: NDArray[np.int64]
    longest: int

    def __len__(self) -> int:
        """Tokens of the longest sequence that is run for it."""
        return self.longest

    def step_counts(self) -> NDArray[np.int64]:
        """Number of tokens of each step's own text. int64, shape [n_steps]."""
        return self.counts


@register("judge")
class JudgeRewardModel(RewardModel):
    """log P(yes) - log P(no) of the next token after `VERDICT`; with critiques, the log-odds of the mean probability over them."""

    step_valued = True
    reads = frozenset({"generation", "pair"})
    own_layout = True
    encoder: TraceEncoder
    default_pair = ("Yes", "No")

    def __init__(self, model: HFEngine, encoder: TraceEncoder, card: Card) -> None:
        self.model = model
        self.encoder = encoder
        self.card = card
        self.generation = card.generation or Generation(n=0)
        self.pair = [self._single_id(text) for text in card.pair or self.default_pair]
        self.vocabulary = model.vocabulary
        self.max_length = model.max_length
        self.stop = frozenset({encoder.end_of_turn, *model.eos_ids()})
        self.verdict = encoder.text_ids(VERDICT if self.generation.n == 0 else f"\n\n{VERDICT}")
        self.hashes = {}
        self.facts = model.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> JudgeRewardModel:
        """Load the language model. See `RewardModel.load`."""
        request.refuse_reference()
        request.refuse_engine("the logits of two tokens")
        hashed = checkpoint_hash(request.folder)
        tokenizer = load_tokenizer(request.folder, request.options)
        encoder = TraceEncoder(tokenizer, request.card.tokens, request.chat_template)
        engine = HFEngine(load_causal_lm(request.folder, request.options), request.source)
        model = cls(engine, encoder, request.card)
        model.hashes = {"model": hashed}
        return model

    def _single_id(self, text: str) -> int:
        ids = self.encoder.text_ids(text)
        if len(ids) != 1:
            raise UserError(f"pair: '{text}' is {len(ids)} tokens of this tokenizer, expected one; name other words")
        return int(ids[0])

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def encode_trace(self, problem: str, steps: Sequence[str]) -> JudgeTrace:
        """The judge's prompts for a trace. See `RewardModel.encode_trace`."""
        prompts = tuple(self.encoder.prompt_ids(judge_prompt(problem, steps[:i])) for i in range(1, len(steps) + 1))
        counts = np.array([len(self.encoder.text_ids(step)) for step in steps], dtype=np.int64)
        after = len(self.verdict)
        rooms = tuple(
            room_for(len(prompt), self.max_length, self.generation, after=after) if self.generation.n else 0
            for prompt in prompts
        )
        longest = max(len(prompt) + room + after for prompt, room in zip(prompts, rooms, strict=True))
        none = np.zeros(0, dtype=np.int64)
        ids = np.concatenate(prompts)
        return JudgeTrace(ids, len(ids), none, len(steps), prompts=prompts, rooms=rooms, counts=counts, longest=longest)

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """One score a step. See `RewardModel.score`."""
        out = []
        for trace in batch:
            assert isinstance(trace, JudgeTrace)
            if self.generation.n == 0:
                scores = self._verdicts(trace.prompts)
            else:
                samples = [self._verdicts(self._critiques(trace, k)) for k in range(self.generation.n)]
                scores = np.array([mean_log_odds(column) for column in np.array(samples).T])
            out.append(StepScores(trace.counts, scores=scores))
        return out

    def _critiques(self, trace: JudgeTrace, sample: int) -> list[Ids]:
        """Each prompt with one critique after it."""
        out: list[Ids] = [np.zeros(0, dtype=np.int64)] * len(trace.prompts)
        lengths = [len(prompt) + room for prompt, room in zip(trace.prompts, trace.rooms, strict=True)]

        def critique(rows: Sequence[int]) -> None:
            prompts, rooms = [trace.prompts[i] for i in rows], [trace.rooms[i] for i in rows]
            texts = write(self.model, prompts, rooms, self.stop, self.generation, sample)
            for i, text in zip(rows, texts, strict=True):
                out[i] = np.concatenate([trace.prompts[i], text])

        self._run(lengths, critique)
        return out

    @torch.inference_mode()
    def _verdicts(self, sequences: Sequence[Ids]) -> NDArray[np.float64]:
        """log P(yes) - log P(no) after each sequence and `VERDICT`. float64, shape [n]."""
        whole = [np.concatenate([ids, self.verdict]) for ids in sequences]
        out = np.zeros(len(whole))

        def judge(rows: Sequence[int]) -> None:
            last = [np.array([len(whole[i]) - 1]) for i in rows]
            states = states_at(self.model.trunk, self.model.device, [whole[i] for i in rows], last)
            logits = self.model.logits(states)
            out[list(rows)] = (logits[:, self.pair[0]] - logits[:, self.pair[1]]).double().cpu().numpy()

        self._run([len(ids) for ids in whole], judge)
        return out

    def _run(self, lengths: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """A trace is many sequences: batches of its own, halved where memory runs out."""
        budget = default_batch_tokens(str(self.model.device))
        runner = BatchRunner(budget)
        for rows in plan_batches(lengths, budget):
            runner.run(rows, lengths, work)

    def fixed_thresholds(self) -> dict[str, float]:
        """Scores are logits of probabilities."""
        return {STEP_PROTOCOL: 0.0}

    def scoring(self) -> dict[str, Any]:
        """See `RewardModel.scoring`."""
        return {"generation": self.generation.model_dump(), "pair": list(self.card.pair or self.default_pair)}
