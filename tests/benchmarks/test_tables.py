"""What tables say in words."""

from __future__ import annotations

from prmbench.benchmarks.tables import against_blind
from prmbench.results.schema import Estimate

TITLES = {"random": "random score", "position": "position only"}


def test_each_score_stands_against_the_best_one_that_knows_nothing():
    found = {
        "a": Estimate(value=0.6, low=0.55, high=0.7),
        "b": Estimate(value=0.52, low=0.4, high=0.6),
        "c": Estimate(value=0.5),
        "d": None,
        "e": Estimate(value=0.51, low=0.45, high=0.6),
    }
    assert against_blind(found, {"random": 0.3, "position": 0.5}, TITLES) == [
        "a (60.0) is above the best score that knows nothing of the text (position only: 50.0).",
        "b (52.0) and e (51.0) are not clearly above the best score that knows nothing of the text (position only: 50.0), which "
        "lies in the 95% interval.",
        "c (50.0) is NOT above the best score that knows nothing of the text (position only: 50.0).",
    ]
    assert against_blind(found, {}, TITLES) == []
