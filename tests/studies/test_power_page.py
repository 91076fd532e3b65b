"""The page of what a number of seeds can decide, against hand-worked spreads and simulated studies."""

from __future__ import annotations

import re
import statistics

import numpy as np
import pytest
from support_studies import EVERYTHING, row

from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.stats.seeds import ordering
from prmbench.studies.claims import judge
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.power_page import SEEDS, write_power


@pytest.fixture(scope="module")
def results():
    return {run: [row(run, seed) for seed in range(3)] for run in EVERYTHING}


@pytest.fixture(scope="module")
def tables():
    """Six other seeds."""
    return {run: [row(run, seed) for seed in range(10, 16)] for run in EVERYTHING}


@pytest.fixture(scope="module")
def judged(results):
    return [one for one in judge(CLAIMS, results, read_reported(resource_folder("leaderboards"))) if not one.claim.ours]


@pytest.fixture(scope="module")
def lines(results, tables):
    table = write_power(results, tables)[-1].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_every_claim_of_the_paper_has_its_row(judged, lines):
    assert [(where, text) for where, text, *_ in lines] == [(one.claim.where, one.claim.text) for one in judged]
    for one, cells in zip(judged, lines, strict=True):
        values = np.array(one.values)
        if np.isnan(values).any():
            assert cells[3] == cells[5] == "n/a"
        else:
            by_hand = np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1))
            assert float(cells[3]) == pytest.approx(by_hand, abs=0.051 * 10.0**-one.claim.digits)


def test_the_spread_of_the_tables_stands_beside_that_of_the_pilot(judged, lines, results, tables):
    found = [one for one in judge(CLAIMS, tables, read_reported(resource_folder("leaderboards"))) if not one.claim.ours]
    ratios = []
    for one, pilot, cells in zip(found, judged, lines, strict=True):
        by_hand = np.std(one.values, ddof=1)
        if not np.isnan(by_hand):
            assert float(cells[7]) == pytest.approx(by_hand, abs=0.051 * 10.0**-one.claim.digits)
            ratios.append(by_hand / np.std(pilot.values, ddof=1))
    (said,) = [part for part in write_power(results, tables) if part.startswith("The 6 seeds of the tables")]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    numbers = [float(number) for number in re.findall(r"\d+\.\d", said)]
    assert numbers == pytest.approx([tenths[4], tenths[0], tenths[8]], abs=0.051)


def test_without_seeds_of_the_tables_nothing_is_compared(results):
    page = write_power(results, {run: [] for run in EVERYTHING})
    assert not [part for part in page if part.startswith("The 0 seeds")]
    assert page[-1].splitlines()[2].endswith("| n/a |")


def test_the_difference_that_is_decided_is_decided_four_times_in_five(judged, lines):
    """Simulated studies of normal differences, judged as claims are."""
    rng = np.random.default_rng(0)
    one, cells = next(
        (one, cells)
        for one, cells in zip(judged, lines, strict=True)
        if one.claim.text == "IPVRM: Best-of-64 above Best-of-4"
    )
    effect, spread = float(cells[5]), one.spread
    draws = rng.normal(effect, spread, size=(2_000, SEEDS))
    appears = np.mean([ordering(draw, np.zeros(SEEDS))[1] == "appears" for draw in draws])
    assert appears == pytest.approx(0.8, abs=0.03)


def test_the_summary_counts_the_rows(judged, lines, results, tables):
    summary = write_power(results, tables)[1]
    assert f"Of {len(lines)} claims" in summary
    needed = [int(cells[4]) for cells in lines if cells[4]]
    assert f"direction for {len(needed)}." in summary
    assert f"power for {sum(n <= SEEDS for n in needed)} of these" in summary
    small = [cells for cells in lines if cells[5] != "n/a" and cells[6] and float(cells[5]) <= float(cells[6])]
    assert abs(int(re.search(r"For (\d+) of all", summary)[1]) - len(small)) <= 1  # the cells are rounded
