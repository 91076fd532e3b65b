from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prmbench.engines.batching import plan_batches


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_sequence_once_within_the_budget_longest_first(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_fills_batches():
    assert plan_batches([3, 3, 3, 1], 6) == [[0, 1], [2, 3]]
