"""Figures of guided search against slow references and cases worked by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.benchmarks.search.benchmark import GUIDED_SEARCH, SearchOptions
from prmbench.benchmarks.search.metrics import SamplePool, compute_search
from prmbench.benchmarks.search.schema import SearchItem
from prmbench.errors import UserError
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.response_scores import vote_weights

OWN = Convention("token_mean", 10.0, 5.0)
TROUBLE = {"cut": 0, "endless": 0, "empty": 0, "repeating": 0, "duplicates": 0}


def item(name, method, budget, correct, scores, costs, *, subset="a", answers=None, **more) -> SearchItem:
    """An item whose costs are the same in every respect: tokens, and operations of both models."""
    return SearchItem(
        subset=subset,
        id=name,
        digest=f"digest of {name}",
        method=method,
        budget=budget,
        correct=[bool(one) for one in correct],
        answers=[int(one) for one in correct] if answers is None else answers,
        scores=np.array(scores, dtype=float),
        lengths=np.full(len(correct), 3),
        sampled=np.array([0, *costs[1:]]),
        scored=np.array(costs),
        policy_flops=np.array(costs, dtype=float),
        model_flops=np.array(costs, dtype=float),
        seconds=float(sum(costs)),
        **{**TROUBLE, **more},
    )


def figures(items, options, **more):
    return compute_search(items, OWN, options, **{"n_resamples": 0, "seed": 0, **more})


def test_one_problem_by_hand():
    """Four samples of cost 10 after a prompt of 5; a beam that costs 35 is worth three samples."""
    pool = item("p", "best-of-n", 4, [1, 0, 0, 1], [4, 3, 2, 1], [5, 10, 10, 10, 10])
    beam = item("p", "beam", 2, [0, 1], [9, 8], [5, 20, 10], cut=1, duplicates=2)
    found = figures([pool, beam], SearchOptions(methods=("best-of-n", "beam"), budgets=(2,))).mean
    one = found.methods["beam@2"]
    assert (one.accuracy.value, one.any_right.value) == (0, 1)
    assert one.equal_n == 3
    # Of the four subsets of three, three hold the first sample, which is right; of the other the best is wrong.
    assert one.best_of_n.value == 0.75
    assert one.difference.value == -0.75
    assert (one.covered, one.sampled, one.scored) == (1, 30, 35)
    assert (one.policy_flops, one.model_flops, one.seconds) == (35, 35, 35)
    assert (one.cut, one.duplicates, one.empty) == (1, 2, 0)
    two = found.methods["best-of-n@2"]
    # Of the six pairs the best is right in (1, 2), (1, 3), (1, 4).
    assert two.accuracy.value == 0.5
    assert (two.sampled, two.scored, two.policy_flops) == (20, 25, 25)
    assert two.difference.value == 0
    assert found.plain.value == 0.5
    assert {n: point.accuracy.value for n, point in found.curve.items()} == {"1": 0.5, "2": 0.5, "4": 1.0}
    assert {n: point.flops for n, point in found.curve.items()} == {"1": 30, "2": 50, "4": 90}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0, 9))
def test_best_of_n_of_any_size_is_enumerated(seed, n, size):
    """Between whole numbers of samples the expectation is interpolated; outside them it is that at the end."""
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.5
    scores = rng.integers(0, 4, n).astype(float)
    pool = SamplePool(item("p", "best-of-n", n, correct, scores, [1] * (n + 1)), np.ones(n), np.ones(n + 1))

    def exact(k: int) -> float:
        total = 0.0
        some = list(itertools.combinations(range(n), k))
        for chosen in some:
            top = [i for i in chosen if scores[i] == max(scores[j] for j in chosen)]
            total += sum(correct[i] for i in top) / len(top)
        return total / len(some)

    at = min(max(size, 1), n)
    low, high = math.floor(at), math.ceil(at)
    expected = exact(low) + (at - low) * (exact(high) - exact(low))
    assert pool.best(size) == pytest.approx(expected, abs=1e-12)


def test_the_number_of_samples_that_cost_as_much():
    pool = SamplePool(item("p", "best-of-n", 2, [1, 0], [1, 2], [5, 10, 30]), np.ones(2), np.array([5.0, 10.0, 30.0]))
    assert pool.equal_n(45) == 2
    assert pool.equal_n(35) == 1.5
    assert pool.equal_n(4) == 1  # less than one sample is still one
    assert pool.cost(1.5) == 35


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_means_and_paired_intervals_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    items = []
    for subset, n_problems in (("a", 5), ("b", 3)):
        for k in range(n_problems):
            right = rng.random(6) < 0.5
            costs = [3, *rng.integers(5, 20, 6)]
            items.append(item(f"p{k}", "best-of-n", 6, right, rng.normal(size=6), costs, subset=subset))
            one = rng.random(2) < 0.5
            items.append(item(f"p{k}", "dvts", 2, one, [2, 1], [3, *rng.integers(5, 30, 3)], subset=subset))
    options = SearchOptions(methods=("dvts", "weighted"), budgets=(2,))
    found = figures(items, options, n_resamples=400, seed=seed)
    # Problem by problem, without any of the code of the figures.
    means = {"a": [], "b": []}
    for subset, differences in means.items():
        for k in range(5 if subset == "a" else 3):
            pool, one = [x for x in items if x.subset == subset and x.id == f"p{k}"]
            each = (pool.flops - 2 * 3) / 6
            at = min(max((one.flops - 2 * 3) / each, 1), 6)
            order = np.argsort(-pool.scores)

            def best(size, order=order, pool=pool):
                chances = [math.comb(5 - rank, size - 1) / math.comb(6, size) for rank in range(6)]
                return sum(chance * pool.correct[i] for chance, i in zip(chances, order, strict=True))

            low = math.floor(at)
            share = best(low) + (at - low) * (best(math.ceil(at)) - best(low))
            differences.append(one.correct[0] - share)
    expected = np.mean([np.mean(one) for one in means.values()])
    got = found.mean.methods["dvts@2"].difference
    assert got.value == pytest.approx(expected, abs=1e-12)
    # An interval of the same kind from another generator: resampled problem by problem.
    again = np.random.default_rng(seed + 1)
    draws = np.array([np.mean([again.choice(one, len(one)).mean() for one in means.values()]) for _ in range(4000)])
    # Its ends are the 2.5% and the 97.5% point, as well as 400 resamples tell. The means of few problems take few values.
    for beyond, end in (
        (draws < got.low - 1e-9, draws <= got.low + 1e-9),
        (draws > got.high + 1e-9, draws >= got.high - 1e-9),
    ):
        assert beyond.mean() < 0.08
        assert end.mean() > 0.003


def test_votes_weigh_the_probability_that_a_score_stands_for():
    """Two wrong samples with the same answer outvote a right one by number, and not by weight."""
    pool = item("p", "best-of-n", 3, [1, 0, 0], [8, -8, -8], [1, 1, 1, 1], answers=[0, 1, 1])
    found = figures([pool], SearchOptions(methods=("weighted",), budgets=(3,))).mean
    assert found.methods["weighted@3"].accuracy.value == 1
    assert vote_weights(np.array([0.0]), "token_mean", OWN)[0] == pytest.approx(0.5)
    even = dataclasses.replace(pool, scores=np.array([8.0, 8.0, 8.0]))
    assert (
        figures([even], SearchOptions(methods=("weighted",), budgets=(3,))).mean.methods["weighted@3"].accuracy.value
        == 0
    )


def test_where_a_shape_is_not_known_tokens_are_the_compute():
    pool = item("p", "best-of-n", 2, [1, 0], [4, 3], [5, 10, 10])
    beam = item("p", "beam", 2, [1], [9], [5, 20])
    items = [dataclasses.replace(one, model_flops=one.model_flops * math.nan) for one in (pool, beam)]
    found = figures(items, SearchOptions(methods=("beam",), budgets=(2,)))
    assert found.compute == "tokens"
    one = found.mean.methods["beam@2"]
    assert one.policy_flops is None
    assert one.equal_n == 2  # 45 tokens, sampled and read, are a prompt of 5 and twice 20
    assert all(point.flops is None for point in found.mean.curve.values())


def test_a_prompt_without_room_is_wrong_by_every_method():
    items = [item("p", "best-of-n", 1, [], [], [0]), item("p", "beam", 4, [], [], [0])]
    full = [item("q", "best-of-n", 4, [1] * 4, [1, 2, 3, 4], [1] * 5), item("q", "beam", 4, [1], [1], [1, 4])]
    found = figures([*items, *full], SearchOptions(methods=("best-of-n", "weighted", "beam"), budgets=(4,))).mean
    assert {name: one.accuracy.value for name, one in found.methods.items()} == {
        "best-of-n@4": 0.5,
        "weighted@4": 0.5,
        "beam@4": 0.5,
    }
    assert found.plain.value == 0.5


def test_items_that_do_not_belong_together_are_named(tmp_path):
    file = tmp_path / "items.jsonl"
    pool = [item(name, "best-of-n", 1, [1], [1], [1, 1]) for name in "pq"]
    file.write_text("".join(one.line() for one in [pool[0], item("q", "beam", 2, [1], [1], [1, 1])]))
    with pytest.raises(UserError, match="problem 'q' of a has no item of best-of-n"):
        GUIDED_SEARCH.read_items(file)
    file.write_text("".join(one.line() for one in [*pool, item("q", "beam", 2, [1], [1], [1, 1])]))
    with pytest.raises(UserError, match="problem 'q' of a has other searches than the first problem"):
        GUIDED_SEARCH.read_items(file)
    file.write_text(pool[0].line().replace('"scores": [1.0]', '"scores": [1.0, 2.0]'))
    with pytest.raises(UserError, match="must be lists of one length, one a candidate"):
        GUIDED_SEARCH.read_items(file)
    with pytest.raises(UserError, match="the items hold no search 'beam' with budget 7; run it"):
        figures(pool, SearchOptions(methods=("beam",), budgets=(7,)))
    with pytest.raises(UserError, match="methods=baem.*did you mean.*beam|methods=baem.*expected"):
        figures(pool, SearchOptions(methods=("baem",)))
