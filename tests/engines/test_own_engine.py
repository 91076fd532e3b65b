"""An engine of one's own: a class with two verbs scores as a reward model and samples as a policy (CONTRIBUTING.md)."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.sampling import Completion, SamplingParams
from prmbench.engines.types import TokenScores
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import rollout
from prmbench.reward_models.card import Card
from prmbench.reward_models.implicit import ImplicitRewardModel
from prmbench.reward_models.reference_model import ReferenceModel


class TableEngine:
    """A language model that is a table: the next token depends on the last one alone. It samples greedily."""

    name = "table"
    provides = frozenset({"logprob"})
    max_length = None

    def __init__(self, vocabulary, seed):
        self.source, self.vocabulary = f"table {seed}", vocabulary
        logits = np.random.default_rng(seed).normal(size=(vocabulary, vocabulary))
        self.logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def device_and_dtype(self):
        return "cpu", "float64"

    def facts(self):
        return {"architecture": "table"}

    def eos_ids(self):
        return []

    def score(self, sequences, first, want, *, top=0):
        if not want <= self.provides:
            raise ValueError(f"gives no {want - self.provides}")
        return [
            TokenScores(logprob=self.logprobs[ids[:-1], ids[1:]][start - 1 :])
            for ids, start in zip(sequences, first, strict=True)
        ]

    def generate(self, requests, stop, params, seed):
        found = []
        for request in requests:
            ids = list(request.prompt)
            while len(ids) - len(request.prompt) < params.max_new_tokens and (
                ids[-1] not in stop or ids == list(request.prompt)
            ):
                ids.append(int(self.logprobs[ids[-1]].argmax()))
            new = np.array(ids[len(request.prompt) :])
            found.append(Completion(new, "stop" if int(new[-1]) in stop else "length"))
        return found


@pytest.fixture
def encoder(tiny):
    return TraceEncoder(AutoTokenizer.from_pretrained(tiny))


def test_a_reward_model_scores_with_it(encoder):
    model, reference = (TableEngine(len(encoder.tokenizer), seed) for seed in (1, 2))
    reward = ImplicitRewardModel(
        model, ReferenceModel("table 2", lambda: reference), encoder, Card(kind="implicit", beta=2.0)
    )
    trace = reward.encode("What is 2 + 2?", ["2 + 2 = 5.", "So 5."])
    wanted = np.zeros(2)
    for position, step in enumerate(trace.step_of, start=trace.n_prompt):
        if step >= 0:
            before, token = trace.ids[position - 1], trace.ids[position]
            wanted[step] += model.logprobs[before, token] - reference.logprobs[before, token]
    (scores,) = reward.score([trace])
    assert scores.sums == pytest.approx(wanted, abs=1e-12)
    assert reward.device_and_dtype() == ("cpu", "float64")


def test_a_policy_samples_with_it(encoder, tmp_path):
    engine = TableEngine(len(encoder.tokenizer), 3)
    policy = Policy(engine, encoder, "table 3", "hash")
    problems = [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1)) for i in range(3)]
    found = rollout(policy, problems, tmp_path / "out", prompt="bare", n=2, params=SamplingParams(max_new_tokens=6))
    assert len(found) == 6
    for one in found:
        last = encoder.prompt_ids(find_prompt("bare").render(one.problem))[-1]
        assert 1 <= len(one.ids) <= 6
        for token in one.ids:
            assert token == engine.logprobs[last].argmax()
            last = token
        assert (one.finish_reason == "stop") == (one.ids[-1] in policy.stop)
