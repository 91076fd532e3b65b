"""PRMBench's own evaluation code, run beside on the same scores: its figures, and ours.

The figures below were printed by ``evaluate_function`` of github.com/ssmisya/PRMBench at commit a1ae4ea, in
``mr_eval/tasks/prmtest_classified/task.py``, on the real rows. It was given the labels that the scores below make at threshold 0.3.
"""

from __future__ import annotations

import hashlib
import json

import pytest

import prmbench
from prmbench.data.traces import load_traces

TOTAL = {
    "f1_right": 0.7672588261749493,
    "f1_wrong": 0.19829589465530595,
    "accuracy": 0.6392471244336005,
}
CLASSES = {
    "circular": (0.7140825035561876, 0.2637362637362637),
    "confidence": (0.7861089187056036, 0.1451104100946372),
    "counterfactual": (0.752851711026616, 0.21686746987951808),
    "deception": (0.7707317073170731, 0.24920127795527158),
    "domain_inconsistency": (0.7970540098199672, 0.1564625850340136),
    "missing_condition": (0.7270501835985312, 0.26402640264026406),
    "multi_solutions": (0.7918367346938776, 0.0),
    "redundency": (0.7771696637998436, 0.2105263157894737),
    "step_contradiction": (0.7694704049844237, 0.1242603550295858),
}
"""F1 of right and of wrong steps. Where there is no wrong step, as in multi_solutions, theirs is 0 and ours is not defined."""


def score(name, step):
    """A number from 0 to 1 that depends on the names alone."""
    return int(hashlib.sha256(f"{name}:{step}".encode()).hexdigest()[:8], 16) / 2**32


def test_figures_are_those_of_prmbench_s_own_code(steps_data, tmp_path):
    data = steps_data / "prmbench_subset.jsonl.gz"
    records = [{"id": t.id, "scores": [score(t.id, i) for i in range(len(t.steps))]} for t in load_traces(data)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    entry, _ = prmbench.evaluate_scores(
        tmp_path / "scores.jsonl", data=data, output=tmp_path / "run", threshold="0.3", n_resamples=0
    )
    given = entry.metrics.protocols["step"].subsets["prmbench_subset"].rules["given"]
    for name, theirs in TOTAL.items():
        assert getattr(given, name).value == pytest.approx(theirs, abs=1e-15)
    assert given.prm_score.value == pytest.approx((TOTAL["f1_right"] + TOTAL["f1_wrong"]) / 2, abs=1e-15)
    assert given.classes.keys() == CLASSES.keys()
    for name, (right, wrong) in CLASSES.items():
        ours = given.classes[name]
        assert ours.f1_right.value == pytest.approx(right, abs=1e-15)
        assert (ours.f1_wrong.value or 0.0) == pytest.approx(wrong, abs=1e-15)
        assert (ours.f1_wrong.value is None) == (name == "multi_solutions")
