"""A language model as judge of every step: is it right, yes or no, straight away or after written critiques, as GenPRM does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.batching import BatchRunner, default_batch_tokens, plan_batches, vllm_batch_tokens
from prmbench.engines.hf.engine import HFEngine, states_at
from prmbench.engines.vllm.engine import VLLMEngine
from prmbench.engines.vllm.parallel import ParallelVLLM
from prmbench.reward_models.base import EngineRewardModel, StepScores, longest_scored
from prmbench.reward_models.card import Card, Generation
from prmbench.reward_models.generation import Ids, room_for, write
from prmbench.reward_models.marks import single_id
from prmbench.stats.protocols import STEP_PROTOCOL

PROMPT = """Here is a math problem and the beginning of a solution to it, step by step.

<problem>
{problem}
</problem>

{steps}

Check step {number}, the last one: does it follow from the problem and the steps before it, and are its calculations right? \
Explain your check, then give the judgement, Yes if the step is right or No if it is wrong, in \\boxed{}."""

VERDICT = "Judgement: \\boxed{"
"""Written for the model, which then says yes or no, so that every step has a verdict."""


def judge_prompt(problem: str, steps: Sequence[str]) -> str:
    """Write the message that asks about the last of these steps.

    Args:
        problem: Text of the problem. Braces in it are safe: only the three marks of `PROMPT` are replaced.
        steps: Texts of the steps up to the one in question.

    Returns:
        The message.
    """
    shown = "\n\n".join(f"<step_{i}>\n{step}\n</step_{i}>" for i, step in enumerate(steps, start=1))
    before, _, rest = PROMPT.partition("{problem}")
    middle, _, rest = rest.partition("{steps}")
    ask, _, after = rest.partition("{number}")
    return f"{before}{problem}{middle}{shown}{ask}{len(steps)}{after}"


def mean_log_odds(log_odds: NDArray[np.float64]) -> float:
    """Give the log-odds of the mean of probabilities, without ever saturating.

    Args:
        log_odds: The probabilities as log-odds. float64, shape [n].

    Returns:
        The log-odds of their mean.
    """
    right = -np.logaddexp(0, -log_odds)
    wrong = -np.logaddexp(0, log_odds)
    return float(np.logaddexp.reduce(right) - np.logaddexp.reduce(wrong))


@dataclass(frozen=True)
class JudgeTrace(EncodedTrace):
    """The prompts that show a trace to a judge, one a step. Its `ids` are all of them, one after the other.

    Attributes:
        prompts: Token ids of each prompt.
        rooms: Number of tokens that a critique after each may have.
        counts: Number of tokens of each step's own text. int64, shape [n_steps].
        longest: Number of tokens of the longest sequence that is run for it, critique and verdict included.
    """

    prompts: tuple[Ids, ...]
    rooms: tuple[int, ...]
    counts: NDArray[np.int64]
    longest: int

    def __len__(self) -> int:
        """Return the number of tokens of the longest sequence that is run for it."""
        return self.longest

    def step_counts(self) -> NDArray[np.int64]:
        """Return the number of tokens of each step's own text. int64, shape [n_steps]."""
        return self.counts


class JudgeRewardModel(EngineRewardModel):
    """log P(yes) - log P(no) of the next token after `VERDICT`; with critiques, the log-odds of the mean probability.

    With transformers it is the difference of two logits, with vLLM that of two log-probs of the next token: the same number.

    Attributes:
        encoder: What turns a message into token ids.
        model: The engine that holds the language model.
    """

    step_valued = True
    reads = frozenset({"generation", "pair"})
    own_layout = True
    default_pair = ("Yes", "No")
    encoder: TraceEncoder
    model: HFEngine | VLLMEngine | ParallelVLLM

    def __init__(self, model: HFEngine | VLLMEngine | ParallelVLLM, encoder: TraceEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model.
            encoder: What turns a message into token ids.
            card: The card, with the user's settings over it.

        Raises:
            UserError: A word of the pair is not one token.
        """
        super().__init__(model, encoder, card)
        self.max_length = longest_scored(model, model.max_length)
        self.batch_tokens = None if isinstance(model, HFEngine) else vllm_batch_tokens(model.device_and_dtype()[0])
        self.generation = card.generation or Generation(n=0)
        self.pair = [single_id(encoder, word) for word in card.pair or self.default_pair]
        self.stop = frozenset({encoder.end_of_turn, *model.eos_ids()})
        self.verdict = encoder.text_ids(VERDICT if self.generation.n == 0 else f"\n\n{VERDICT}")

    def encode_trace(self, problem: str, steps: Sequence[str]) -> JudgeTrace:
        """Make the prompts that show a trace. See `RewardModel.encode_trace`.

        Args:
            problem: Text of the problem.
            steps: Texts of the steps.
        """
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
        """Give one score a step. See `RewardModel.score`.

        Args:
            batch: The traces, from `encode`.
        """
        traces = [trace for trace in batch if isinstance(trace, JudgeTrace)]
        if not isinstance(self.model, HFEngine):
            return self._score_together(traces)
        return [one for trace in traces for one in self._score_together([trace])]

    def _score_together(self, traces: Sequence[JudgeTrace]) -> list[StepScores]:
        prompts = [prompt for trace in traces for prompt in trace.prompts]
        rooms = [room for trace in traces for room in trace.rooms]
        if self.generation.n == 0:
            scores = self._verdicts(prompts)
        else:
            samples = [self._verdicts(self._critiques(prompts, rooms, k)) for k in range(self.generation.n)]
            scores = np.array([mean_log_odds(column) for column in np.array(samples).T])
        edges = np.cumsum([len(trace.prompts) for trace in traces])[:-1]
        return [
            StepScores(trace.counts, scores=one) for trace, one in zip(traces, np.split(scores, edges), strict=True)
        ]

    def _critiques(self, prompts: Sequence[Ids], rooms: Sequence[int], sample: int) -> list[Ids]:
        """Return each prompt with one critique after it."""
        out: list[Ids] = [np.zeros(0, dtype=np.int64)] * len(prompts)
        lengths = [len(prompt) + room for prompt, room in zip(prompts, rooms, strict=True)]

        def critique(rows: Sequence[int]) -> None:
            asked = [prompts[i] for i in rows], [rooms[i] for i in rows]
            texts = write(self.model, *asked, self.stop, self.generation, sample)
            for i, text in zip(rows, texts, strict=True):
                out[i] = np.concatenate([prompts[i], text])

        self._run(lengths, critique)
        return out

    def _verdicts(self, sequences: Sequence[Ids]) -> NDArray[np.float64]:
        """Return log P(yes) - log P(no) after each sequence and `VERDICT`. float64, shape [n]."""
        whole = [np.concatenate([ids, self.verdict]) for ids in sequences]
        out = np.zeros(len(whole))

        def judge(rows: Sequence[int]) -> None:
            out[list(rows)] = self._odds([whole[i] for i in rows])

        self._run([len(ids) for ids in whole], judge)
        return out

    @torch.inference_mode()
    def _odds(self, sequences: Sequence[Ids]) -> NDArray[np.float64]:
        """Return log P(yes) - log P(no) of the token after each sequence. float64, shape [n]."""
        if not isinstance(self.model, HFEngine):
            found = self.model.next_logprobs_after(sequences, self.pair)
            return found[:, 0] - found[:, 1]
        last = [np.array([len(ids) - 1]) for ids in sequences]
        logits = self.model.logits(states_at(self.model.trunk, self.model.device, sequences, last))
        return (logits[:, self.pair[0]] - logits[:, self.pair[1]]).double().cpu().numpy()

    def _run(self, lengths: Sequence[int], work: Callable[[Sequence[int]], None]) -> None:
        """Do the work; in batches of its own, halved where memory runs out: a trace is many sequences. vLLM batches by itself."""
        if not isinstance(self.model, HFEngine):
            work(range(len(lengths)))
            return
        budget = default_batch_tokens(str(self.model.device))
        runner = BatchRunner(budget)
        for rows in plan_batches(lengths, budget):
            runner.run(rows, lengths, work)

    def fixed_thresholds(self) -> dict[str, float]:
        """Return probability 0.5: scores are logits of probabilities."""
        return {STEP_PROTOCOL: 0.0}

    def scoring(self) -> dict[str, Any]:
        """Return how critiques are sampled and which two tokens are compared."""
        return {"generation": self.generation.model_dump(), "pair": list(self.card.pair or self.default_pair)}
