"""The search methods against what they must be in the limits."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import TableScorer, TreeSampler, leaves, random_tree

from prmbench.miniature.solutions import SPLIT_SHARE
from prmbench.miniature.values import Values
from prmbench.miniature.world import SPLITS, World, draw_problem, is_hard
from prmbench.search.drive import Searched, run_searches
from prmbench.search.methods import METHODS, Setting, best, draw
from prmbench.search.paths import Task

SEARCHES = ("beam", "dvts", "particles")


def run(method, setting, tree, score, *, seed=0, listed=False, key="p") -> Searched:
    sampler, task = TreeSampler(tree, seed=seed, listed=listed), Task(key)
    return run_searches([(task, METHODS[method](setting))], sampler, TableScorer(score))[0]


def chosen(found: Searched, method: str = "best-of-n") -> tuple[int, ...]:
    place = 0 if method in SEARCHES else best(found.candidates)
    return tuple(found.candidates[place].ids.tolist())


def noisy(tokens) -> float:
    return random.Random(repr(tokens)).random()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_one_path_is_plain_sampling_whatever_the_scores(method, seed):
    tree = random_tree(np.random.default_rng(seed), depth=6, width=3)
    plain = run("best-of-n", Setting(1), tree, lambda _: 0.0, seed=seed)
    found = run(method, Setting(1, width=1, seed=seed), tree, noisy, seed=seed)
    assert chosen(found, method) == chosen(plain)
    assert len(found.candidates) == 1


@pytest.mark.parametrize("method", ["best-of-n", "beam", "dvts"])
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 5))
def test_a_score_that_says_nothing_gives_the_first_sample(method, seed, n, width):
    tree = random_tree(np.random.default_rng(seed), depth=6, width=3)
    plain = run("best-of-n", Setting(1), tree, lambda _: 0.0, seed=seed)
    assert chosen(run(method, Setting(n, width=width), tree, lambda _: 0.5, seed=seed), method) == chosen(plain)


def test_particles_with_a_score_that_says_nothing_are_distributed_as_samples():
    tree = random_tree(np.random.default_rng(7), depth=4, width=3)
    expected, n = leaves(tree), 1_500
    assert len(expected) >= 6
    counts = dict.fromkeys(expected, 0)
    searches = [(Task(f"p{i}"), METHODS["particles"](Setting(4, seed=1, key=f"p{i}"))) for i in range(n)]
    for found in run_searches(searches, TreeSampler(tree, seed=3), TableScorer(lambda _: 0.0)):
        counts[chosen(found, "particles")] += 1
    chi = sum((counts[leaf] - n * share) ** 2 / (n * share) for leaf, share in expected.items())
    from scipy.stats import chi2

    assert chi2.sf(chi, len(expected) - 1) > 0.01


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_beam_as_wide_as_everything_finds_the_best(seed):
    tree = random_tree(np.random.default_rng(seed), depth=4, width=2)
    everything = leaves(tree)
    # Prefixes score at random: they lead astray, and must not matter where nothing is dropped.
    found = run("beam", Setting(500, width=3), tree, noisy, listed=True)
    assert {tuple(path.ids.tolist()) for path in found.candidates} == set(everything)
    assert chosen(found, "beam") == max(everything, key=noisy)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(SEARCHES), st.integers(1, 12), st.integers(1, 5))
def test_what_runs_beside_a_search_does_not_change_it(seed, method, n, width):
    tree = random_tree(np.random.default_rng(seed), depth=5, width=3)
    keys = ["a", "b", "c"]

    def searches(some):
        return [(Task(key), METHODS[method](Setting(n, width=width, seed=seed, key=key))) for key in some]

    def texts(found):
        return [[(tuple(p.ids.tolist()), p.stream, p.score) for p in one.candidates] for one in found]

    together = run_searches(searches(keys), TreeSampler(tree, seed=seed), TableScorer(noisy))
    alone = [run_searches(searches([key]), TreeSampler(tree, seed=seed), TableScorer(noisy))[0] for key in keys]
    assert texts(together) == texts(alone)
    assert [one.costs for one in together] == [one.costs for one in alone]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(SEARCHES), st.integers(1, 12), st.integers(1, 5))
def test_candidates_have_ended_and_a_path_never_uses_a_number_twice(seed, method, n, width):
    tree = random_tree(np.random.default_rng(seed), depth=5, width=3)
    used: list[tuple[int, int]] = []

    class Watching(TreeSampler):
        def grow(self, wanted):
            grown = super().grow(wanted)
            used.extend((growth.stream, len(growth.parent.ids)) for _, growth in wanted)
            return grown

    task = Task("p")
    found = run_searches(
        [(task, METHODS[method](Setting(n, width=width, key="p")))], Watching(tree, seed=seed), TableScorer(noisy)
    )[0]
    assert found.candidates
    assert all(path.end for path in found.candidates)
    assert len(found.candidates) <= n
    assert len(used) == len(set(used))
    assert sum(cost.sampled for cost in found.costs) == len(used)
    if method == "beam":
        assert len(found.candidates) == n
    assert [p.score for p in found.candidates] == sorted((p.score for p in found.candidates), reverse=True)


def test_beam_keeps_the_best_of_each_round():
    """Worked by hand: N = 4, M = 2, steps of one token, three steps. 'a' is 0, 'b' is 1."""
    tree = {at: [(0, 1.0), (1, 1.0)] for n in range(3) for at in itertools.product((0, 1), repeat=n)}
    rounds: list[list[tuple[int, ...]]] = []

    class Watching(TreeSampler):
        def grow(self, wanted):
            rounds.append([tuple(growth.parent.ids.tolist()) for _, growth in wanted])
            return super().grow(wanted)

    score = {(0,): 0.2, (1,): 0.9, (1, 0): 0.1, (1, 1): 0.4, (0, 0): 0.8, (0, 1): 0.3}

    def value(tokens):
        return score.get(tokens, sum(tokens) / 10)

    found = run_searches(
        [(Task("p"), METHODS["beam"](Setting(4, width=2)))], Watching(tree, listed=True), TableScorer(value)
    )
    # (0) and (1) come twice each; both stay, the better one first. Then (0, 0) and (1, 1) are the best two of four.
    assert rounds == [[()] * 4, [(1,), (0,), (1,), (0,)], [(0, 0), (1, 1), (0, 0), (1, 1)]]
    assert [tuple(p.ids.tolist()) for p in found[0].candidates] == [(1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)]
    assert found[0].duplicates == 2


def test_dvts_keeps_the_best_of_each_beam():
    """Worked by hand: N = 4, M = 2: two beams. Each takes the better of its two, though both of one beat those of the other."""
    tree = {at: [(0, 1.0), (1, 1.0)] for n in range(2) for at in itertools.product((0, 1), repeat=n)}
    rounds = []

    class Watching(TreeSampler):
        def grow(self, wanted):
            rounds.append([tuple(growth.parent.ids.tolist()) for _, growth in wanted])
            return super().grow(wanted)

    found = run_searches(
        [(Task("p"), METHODS["dvts"](Setting(4, width=2)))], Watching(tree, listed=True), TableScorer(lambda t: sum(t))
    )
    assert rounds == [[()] * 4, [(1,)] * 4]
    assert [tuple(p.ids.tolist()) for p in found[0].candidates] == [(1, 1), (1, 1), (1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("scores", "temperature", "chances"),
    [
        ([0.0, math.log(3)], 1.0, [0.25, 0.75]),
        ([0.0, math.log(9)], 2.0, [0.25, 0.75]),
        ([1.0, 2.0, 2.0], 0.0, [0, 0.5, 0.5]),
        ([1.0, 2.0, -math.inf], math.inf, [0.5, 0.5, 0]),
        ([-math.inf, -math.inf], 1.0, [0.5, 0.5]),
        ([-math.inf, 1000.0], 0.01, [0, 1]),
    ],
)
def test_particles_are_drawn_by_the_softmax_of_their_scores(scores, temperature, chances):
    drawn = draw(scores, 20_000, temperature, np.random.default_rng(0))
    assert drawn == sorted(drawn)
    got = np.bincount(drawn, minlength=len(scores)) / 20_000
    np.testing.assert_allclose(got, chances, atol=0.012)
    assert all(got[i] == 0 for i, chance in enumerate(chances) if chance == 0)


# The miniature: solutions as a demonstrator writes them, with their true values


def chain_tree(problem, world: World):
    """The demonstrator's choices as a tree: a token is a way of an operation with a result, and a path's value is exact.

    A token of a step done at once is its result; of a split step 100 plus the result of the first half, then that of the second.
    """
    tree, value = {}, {}
    values = Values(problem, world)

    def outcomes(fact):
        return [(result, share) for result, share in fact.results() if share]

    def fill(at, done, number):
        value[at] = float(values.table[done, number])
        if done == len(problem.operations):
            return
        operator, operand = problem.operations[done]
        hard = is_hard(operator, operand)
        direct = outcomes(world.fact(number, operator, operand))
        tree[at] = [(result, share * (1 - SPLIT_SHARE if hard else 1)) for result, share in direct]
        for result, _ in direct:
            fill((*at, result), done + 1, result)
        if hard:
            factor, sign = SPLITS[operand]
            for half, share in outcomes(world.fact(number, "*", factor)):
                tree[at].append((100 + half, share * SPLIT_SHARE))
                after = (*at, 100 + half)
                tree[after] = outcomes(world.fact(half, sign, number))
                value[after] = sum(share * float(values.table[done + 1, r]) for r, share in tree[after])
                for result, _ in tree[after]:
                    fill((*after, result), done + 1, result)

    fill((), 0, problem.start)
    return tree, value


def test_true_values_are_the_chance_to_end_right():
    world = World()
    problem = draw_problem(world, random.Random(0), "test")
    tree, value = chain_tree(problem, world)
    exact = sum(share for leaf, share in leaves(tree).items() if value[leaf] == 1)
    assert exact == pytest.approx(Values(problem, world).start, abs=1e-12)


def test_a_wide_beam_in_the_miniature_finds_what_enumeration_finds():
    world, rng = World(max_ops=2), random.Random(1)
    for _ in range(3):
        tree, _ = chain_tree(draw_problem(world, rng, "test"), world)
        # A score by which one solution is the best: its likelihood, and prefixes at random.
        likely = leaves(tree)
        found = run("beam", Setting(1_500, width=4), tree, lambda t, known=likely: known.get(t, noisy(t)), listed=True)
        assert chosen(found, "beam") == max(likely, key=likely.__getitem__)


def test_search_with_true_values_beats_best_of_n_in_the_miniature():
    world, rng = World(min_ops=4), random.Random(2)
    problems = [draw_problem(world, rng, "test") for _ in range(150)]
    right = dict.fromkeys(METHODS, 0)
    spent = dict.fromkeys(METHODS, 0)
    for i, problem in enumerate(problems):
        tree, value = chain_tree(problem, world)
        for method in METHODS:
            # The logit of the value, as a reward model's step score is; particles draw by it.
            setting = Setting(8, width=4, key=str(i))
            logit = lambda t, known=value: math.log(known[t] + 1e-6) - math.log(1 - known[t] + 1e-6)  # noqa: E731
            found = run(method, setting, tree, logit, key=str(i))
            right[method] += value[chosen(found, method)] == 1
            spent[method] += sum(cost.sampled for cost in found.costs)
    for method in SEARCHES:
        assert right[method] >= right["best-of-n"] + 8, right
        assert spent[method] <= 1.1 * spent["best-of-n"], spent
    # With the answer known, Best-of-N is any right: an exact expectation to hold it to.
    exact = sum(1 - (1 - Values(problem, world).start) ** 8 for problem in problems)
    assert right["best-of-n"] == pytest.approx(exact, abs=3 * math.sqrt(150 * 0.25))
