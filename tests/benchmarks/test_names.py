from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from prmbench.benchmarks.names import MISSING, differing, distinct


def test_equal_names_are_told_apart_by_the_first_thing_that_differs():
    assert distinct(["a", "b"], ["x", "y"]) == ["a", "b"]
    assert distinct(["a", "b", "a"], ["x", "x", "x"], ["1", "2", "3"]) == ["a (1)", "b", "a (3)"]
    assert distinct(["a", "a", "a"], ["x", "x", "y"], ["1", "2", "3"]) == ["a (x) (1)", "a (x) (2)", "a (y)"]
    assert distinct(["a", "a"], ["x", "x"]) == ["a", "a"]


def test_what_differs():
    two = ["Qwen2.5-Math-PRM-7B-step100", "Qwen2.5-Math-PRM-7B-step200"]
    assert differing(two) == [f"{MISSING}step100", f"{MISSING}step200"]
    assert differing(["ipvrm-7b-lora", "dpo-7b-lora"]) == [f"ipvrm{MISSING}", f"dpo{MISSING}"]
    assert differing(["ipvrm", "ipvrm-late"]) == ["ipvrm", "ipvrm-late"]
    assert differing(["same", "same"]) == ["same", "same"]


NAMES = st.lists(st.text("ab-_. ", min_size=1).filter(lambda text: text.strip("-_. ")), min_size=2, max_size=4)


@given(NAMES)
def test_nothing_is_lost(names):
    """What is left of a name is a part of it, and names with numbers of their own are all distinct."""
    assert len(set(distinct(names, [str(i) for i in range(len(names))]))) == len(names)
    cut = differing(names)
    for one, short in zip(names, cut, strict=True):
        assert short.strip(MISSING) in one
    assert len(cut) == len(names)
