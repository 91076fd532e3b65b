"""Things in groups."""

from __future__ import annotations

from types import SimpleNamespace

from prmbench.benchmarks.groups import grouped, problem_of


def test_groups_keep_the_order_in_which_things_come():
    assert list(grouped([3, 1, 4, 1, 5, 9, 2, 6], lambda n: n % 3).items()) == [
        (0, [3, 9, 6]),
        (1, [1, 4, 1]),
        (2, [5, 2]),
    ]
    assert grouped(iter("abc"), lambda _: None) == {None: ["a", "b", "c"]}
    assert grouped([], problem_of) == {}


def test_a_problem_is_named_by_its_subset_too():
    a, b, c = (SimpleNamespace(subset=subset, id="1") for subset in ("x", "y", "x"))
    assert grouped([a, b, c], problem_of) == {("x", "1"): [a, c], ("y", "1"): [b]}
