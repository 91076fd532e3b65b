from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.protocols import TOKEN_PROTOCOLS, token_protocol_scores


@given(
    st.lists(st.lists(st.floats(-5, 5), max_size=4), min_size=1, max_size=6),
    st.floats(0.01, 20),
)
@settings(max_examples=200, deadline=None)
def test_protocols_equal_a_plain_loop_over_tokens(steps, beta):
    sums = np.array([sum(step) for step in steps])
    counts = np.array([len(step) for step in steps])
    found = token_protocol_scores(sums, counts, beta)
    for i, step in enumerate(steps):
        until = [r for s in steps[: i + 1] for r in s]
        assert found["process"][i] == pytest.approx(beta * sum(step), abs=1e-9)
        assert found["prefix"][i] == pytest.approx(beta * sum(until), abs=1e-9)
        assert found["process_mean"][i] == pytest.approx(beta * sum(step) / len(step) if step else 0.0, abs=1e-9)
        assert found["prefix_mean"][i] == pytest.approx(beta * sum(until) / len(until) if until else 0.0, abs=1e-9)


def test_hand_worked_case():
    found = token_protocol_scores(np.array([2.0, -6.0]), np.array([2, 3]), 0.5)
    assert {name: values.tolist() for name, values in found.items()} == {
        "process": [1.0, -3.0],
        "prefix": [1.0, -2.0],
        "process_mean": [0.5, -1.0],
        "prefix_mean": [0.5, -0.4],
    }
    assert tuple(found) == TOKEN_PROTOCOLS
