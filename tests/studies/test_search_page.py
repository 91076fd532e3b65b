"""The page of the study of guided search, from rows made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prmbench.studies.search_page import RUNS, curve_table, methods_table, over_problems, winners, write_search

METHODS = ("best-of-n@4", "beam@4", "beam@16")


def around(value):
    return {"value": value, "low": value - 0.03, "high": value + 0.06}


def row(run, seed):
    rng = np.random.default_rng([RUNS.index(run), seed])
    difference = {"true values": 0.2, "ipvrm": -0.2}.get(run.name, 0.0)
    methods = {
        method: {
            "accuracy": around(0.5 + 0.01 * seed),
            "best_of_n": 0.4,
            "equal_n": 3.5,
            "difference": around(difference + 0.01 * rng.normal()),
            "any_right": 0.9,
            "sampled": 172.0,
            "flops": 6.08e8,
        }
        for method in METHODS
    }
    curve = {str(n): {"accuracy": 0.3 + 0.1 * seed, "any_right": 1.0} for n in (1, 2, 1024)}
    return {"methods": methods, "curve": curve, "agreement": 0.25}


@pytest.fixture
def results():
    return {run: [row(run, seed) for seed in range(3)] for run in RUNS}


def test_tables_have_means_over_seeds(results):
    table = methods_table(results).splitlines()
    assert len(table) == 2 + len(RUNS) * len(METHODS)
    # 50, 51 and 52, each from 3 below to 6 above: the mean's half widths are 3 / sqrt(3) and 6 / sqrt(3).
    assert table[2] == "| true values | best-of-n@4 | 51.0 [49.3, 54.5] |  |  |  | 172 | 608 |"
    assert "| 40.0 @3.5 | +" in table[3]
    curve = curve_table(results).splitlines()
    assert curve[0] == "| scores by | @1 | @2 | @1024 |"
    assert curve[2] == "| true values | 40.0 | 40.0 | 40.0 |"
    assert curve[-1] == "| any right | 100.0 | 100.0 | 100.0 |"


def test_winners_by_the_interval_over_problems(results):
    lines = winners(results)
    assert lines[0] == "- true values: better than Best-of-N: beam@4, beam@16."
    assert lines[1] == "- IPVRM: worse than Best-of-N: beam@4, beam@16."
    assert "not clearly different from Best-of-N" in lines[2]


def test_the_page_and_its_picture(results):
    paragraphs, pictures = write_search(results)
    text = "\n".join(paragraphs)
    assert "3 seeds" in text
    assert "- explicit PRM, exact labels: 0.25, 0.25, 0.25" in text
    assert "true values: 1" not in text
    assert pictures["search-many.svg"].startswith("<svg")


def test_the_interval_of_a_mean_is_that_of_a_simulation():
    """Normal estimates of three seeds: their mean lies within the interval in 95% of the cases."""
    rng, spreads = np.random.default_rng(0), np.array([0.01, 0.02, 0.05])
    hits = 0
    for _ in range(4_000):
        values = 0.3 + spreads * rng.normal(size=3)
        seeds = [{"value": v, "low": v - 1.96 * s, "high": v + 1.96 * s} for v, s in zip(values, spreads, strict=True)]
        _, low, high = over_problems(seeds)
        hits += low <= 0.3 <= high
    assert hits / 4_000 == pytest.approx(0.95, abs=0.012)
