"""Pairs of prefixes of one problem, against a loop over prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmbench.training.prm.data import LabelledTrace
from prmbench.training.prm.prefix_pairs import PairOptions, make_groups, traces_of
from prmbench.training.prm.trainer import collate


def trace(problem, shares, numbers=None):
    n = len(shares)
    return LabelledTrace(
        problem,
        ids=np.arange(3 * n + 2),
        marks=3 * np.arange(1, n + 1),
        targets=np.array(shares, dtype=np.float32),
        numbers=np.arange(n) if numbers is None else np.array(numbers),
        trials=np.ones(n, dtype=np.int64),
    )


def pairs(group):
    return set(zip(group.better.tolist(), group.worse.tolist(), strict=True))


def test_a_case_by_hand():
    mine = [trace("p", [0.5, 1.0]), trace("q", [1.0]), trace("p", [0.25, 0.3, 0.0])]
    (group,) = make_groups(mine, PairOptions(least=0.25))
    # Marks of p: 0.5, 1.0 | 0.25, 0.3, 0.0. Inside the traces 1 > 0, 2 > 4, 3 > 4; across, of equal length, 0 > 2 and 1 > 3.
    assert pairs(group) == {(1, 0), (2, 4), (3, 4), (0, 2), (1, 3)}
    assert (group.problem, len(group), traces_of(group)) == ("p", 11, (mine[0], mine[2]))
    (alone,) = make_groups(mine, PairOptions(least=0.25, across=False))
    assert pairs(alone) == {(1, 0), (2, 4), (3, 4)}
    assert [pairs(one) for one in make_groups(mine, PairOptions(least=0.25, traces=1))] == [{(1, 0)}, {(0, 2), (1, 2)}]
    assert not make_groups([trace("p", [0.5, 0.5])], PairOptions())
    # 0.6 - 0.35 is a quarter, though not as float32; and steps are compared by their place in the solution.
    assert pairs(make_groups([trace("p", [0.6, 0.35])], PairOptions())[0]) == {(0, 1)}
    assert make_groups([trace("p", [1.0], [3]), trace("p", [0.0], [2])], PairOptions()) == []


shares = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from("ab"), shares), min_size=1, max_size=6), st.sampled_from([0.125, 0.25, 0.6]))
def test_pairs_are_those_of_a_slow_loop(made, least):
    traces = [trace(problem, of) for problem, of in made]
    groups = make_groups(traces, PairOptions(least=least, traces=2))
    found = {(id(a), i, id(b), j) for group in groups for a, i, b, j in places(group)}
    wanted = set()
    for problem in "ab":
        mine = [one for one in traces if one.problem == problem]
        for start in range(0, len(mine), 2):
            prefixes = [(one, i) for one in mine[start : start + 2] for i in range(len(one.targets))]
            for a, i in prefixes:
                for b, j in prefixes:
                    if (a is b or i == j) and a.targets[i] - b.targets[j] >= least - 1e-6:
                        wanted.add((id(a), i, id(b), j))
    assert found == wanted
    if groups:  # in a batch the pairs are of the same values
        batch, flat = collate(groups), [one for group in groups for one in group.traces]
        every = np.concatenate([one.targets for one in flat])
        differences = np.concatenate(
            [
                np.concatenate([one.targets for one in g.traces])[g.better]
                - np.concatenate([one.targets for one in g.traces])[g.worse]
                for g in groups
            ]
        )
        assert (every[batch["better"].numpy()] - every[batch["worse"].numpy()]).tolist() == differences.tolist()
        assert len(batch["labels"]) == sum(len(group.better) for group in groups)


def places(group):
    """The pairs of a group as (trace, mark, trace, mark)."""
    flat = [(one, i) for one in group.traces for i in range(len(one.targets))]
    return [(*flat[i], *flat[j]) for i, j in zip(group.better, group.worse, strict=True)]


@pytest.mark.parametrize("change", [{"least": 0}, {"least": 1.5}, {"traces": 0}, {"most": 1}])
def test_options_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PairOptions(**change)
