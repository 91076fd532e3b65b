from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prmbench.benchmarks.candidate_sets.benchmark import CANDIDATE_SETS, CandidateSetsOptions
from prmbench.benchmarks.candidate_sets.metrics import candidate_sums, compute_candidate_sets
from prmbench.benchmarks.candidate_sets.run import evaluate_candidate_sets
from prmbench.benchmarks.candidate_sets.schema import RolloutCandidates
from prmbench.benchmarks.registry import recompute
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import read_rollouts
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy

PROBLEMS = {"a": [Problem(f"p{i}", f"What is {i} + 1?", str(i)) for i in range(4)]}


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.2, 0.34]))
def test_top_tokens_hold_every_candidate(seed, p_min):
    """Probabilities sum to 1, so floor(1 / P_min) tokens are enough: the same as over the whole vocabulary."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(50, 0.05), size=6)
    top = -np.sort(-np.log(np.maximum(p, 1e-300)), axis=1)[:, : int(1 / p_min)]
    size, mass, several = candidate_sums(top, p_min)
    assert size == (p >= p_min).sum()
    assert mass == pytest.approx(p[p >= p_min].sum())
    assert several == sum((row >= p_min).sum() >= 2 for row in p)


def test_worked_by_hand():
    assert candidate_sums(np.log([[0.5, 0.3, 0.1], [0.95, 0.04, 0.01]]), 0.2) == (3, pytest.approx(1.75), 1)


def test_means_are_over_states():
    items = [
        RolloutCandidates("s", "a", 0, "d", 10, {"0.1": (12, 9.0, 2)}),
        RolloutCandidates("s", "b", 0, "d", 30, {"0.1": (33, 29.0, 3)}),
    ]
    found = compute_candidate_sets(items, n_resamples=100, seed=0)
    assert found.p_min["0.1"].size.value == pytest.approx(45 / 40)
    assert found.p_min["0.1"].mass.value == pytest.approx(38 / 40)
    assert found.p_min["0.1"].several.value == pytest.approx(5 / 40)
    assert found.p_min["0.1"].size.low == pytest.approx(33 / 30)
    assert found.p_min["0.1"].size.high == pytest.approx(12 / 10)
    assert (found.n_rollouts, found.n_states) == (2, 40)


def test_against_the_whole_distribution(tiny, tmp_path):
    policy = load_policy(str(tiny), find_prompt("boxed"))
    params = SamplingParams(max_new_tokens=12)
    entry, path = evaluate_candidate_sets(
        policy,
        PROBLEMS,
        name="x",
        source="x",
        output=tmp_path,
        options=CandidateSetsOptions((0.02, 0.1), n=2),
        params=params,
    )
    rollouts = read_rollouts(tmp_path / "rollouts" / "a")
    sizes = {0.02: 0, 0.1: 0}
    for one in rollouts:
        prompt = policy.encoder.prompt_ids(find_prompt("boxed").render(one.problem))
        with torch.no_grad():
            p = policy.engine.model(torch.tensor([[*prompt, *one.ids]])).logits[0].double().softmax(-1)
        for limit in sizes:
            sizes[limit] += int((p[len(prompt) - 1 : -1] >= limit).sum())
    n = sum(len(one.ids) for one in rollouts)
    assert entry.metrics.n_states == n
    for limit, size in sizes.items():
        assert entry.metrics.p_min[str(limit)].size.value == pytest.approx(size / n)
    assert sizes[0.02] > 0
    assert recompute(path).metrics == entry.metrics
    assert len(CANDIDATE_SETS.read_items(tmp_path / "items.jsonl")) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sets": {}}, "field 'sets' is empty"),
        ({"sets": {"0.1": [10**400, 1.0, 0]}}, "field 'sets.0.1'"),
        ({"sets": {"0.1": [float("nan"), 1.0, 0]}}, "field 'sets.0.1' is NaN"),
        ({"sets": {"0.2": [1, 1.0, 0]}}, "field 'sets' is of P_min 0.2, in the first line of 0.1"),
        ({"n_tokens": -1}, "field 'n_tokens' is -1"),
    ],
)
def test_hostile_items_are_named(tmp_path, change, message):
    fields = json.loads(RolloutCandidates("a", "p", 0, "d", 3, {"0.1": (4, 2.5, 1)}).line())
    other = {**fields, "sample": 1, **change}
    (tmp_path / "items.jsonl").write_text(json.dumps(fields) + "\n" + json.dumps(other) + "\n")
    with pytest.raises(UserError, match=f"line 2: {message}"):
        CANDIDATE_SETS.read_items(tmp_path / "items.jsonl")


def test_no_choice_anywhere_has_a_bound():
    """Of 5 problems whose states have one candidate each, the share of states with several is not known to be 0."""
    items = [RolloutCandidates("a", f"p{i}", 0, "d", 3, {"0.1": (3, 2.9, 0)}) for i in range(5)]
    several = compute_candidate_sets(items, n_resamples=20, seed=0).p_min["0.1"].several
    assert (several.value, several.low) == (0, 0)
    assert several.high == pytest.approx(1 - 0.025 ** (1 / 5))


def test_p_min_is_a_probability(tiny, tmp_path):
    policy = load_policy(str(tiny), find_prompt("boxed"))
    with pytest.raises(UserError, match="between 0 and 1"):
        evaluate_candidate_sets(
            policy, PROBLEMS, name="x", source="x", output=tmp_path, options=CandidateSetsOptions((1.0,))
        )


def test_a_policy_without_room_for_a_token(tiny, tmp_path, monkeypatch):
    policy = load_policy(str(tiny), find_prompt("boxed"))
    monkeypatch.setattr(type(policy.engine), "max_length", 4)
    with pytest.raises(UserError, match="no prompt leaves room"):
        evaluate_candidate_sets(policy, PROBLEMS, name="x", source="x", output=tmp_path)
