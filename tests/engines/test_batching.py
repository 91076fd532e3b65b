from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.errors import UserError


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


# --- memory: running out cannot be arranged on a test machine, so the error is raised by hand ---


def test_halves_its_budget_and_goes_on():
    lengths = [10] * 8
    asked, done = [], []

    def score(indices):
        asked.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(indices)

    runner = BatchRunner(80)
    runner.run(list(range(8)), lengths, score)
    assert sorted(done) == list(range(8))
    assert asked == [8, 4, 2, 2, 2, 2]  # learns: the second four are never tried whole
    assert runner.budget == 20


def test_cpu_allocator_errors_count_and_others_do_not():
    def refuse(indices):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(UserError, match="out of memory on a single sequence of 10 tokens"):
        BatchRunner(10).run([0], [10], refuse)

    def break_(indices):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        BatchRunner(100).run([0, 1], [10, 10], break_)
