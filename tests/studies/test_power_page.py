"""The page of what a number of seeds can decide, against hand-worked spreads and simulated studies."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support_studies import EVERYTHING, row

from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.stats.seeds import ordering
from prmbench.studies.claims import judge
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.power_page import PAIR_SEEDS, SEEDS, planned_seeds, write_power


@pytest.fixture(scope="module")
def results():
    return {run: [row(run, seed) for seed in range(3)] for run in EVERYTHING}


@pytest.fixture(scope="module")
def judged(results):
    return [one for one in judge(CLAIMS, results, read_reported(resource_folder("leaderboards"))) if not one.claim.ours]


@pytest.fixture(scope="module")
def lines(results):
    table = write_power(results)[-1].splitlines()[2:]
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


def test_only_claims_about_distrl_and_grpo_with_ipvrm_get_more_seeds(judged):
    more = [one.claim.text for one in judged if planned_seeds(one) == PAIR_SEEDS]
    assert {planned_seeds(one) for one in judged} == {SEEDS, PAIR_SEEDS}
    assert all(("DistRL" in text and "GRPO" in text) or "verifier accuracy" in text for text in more)
    assert "avg@8: DistRL w/ IPVRM above GRPO w/ IPVRM" in more
    assert "avg@8: DistRL w/ IPVRM above PRIME" not in more


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


def test_the_summary_counts_the_rows(judged, lines, results):
    summary = write_power(results)[1]
    assert f"Of {len(lines)} claims" in summary
    needed = [(int(cells[4]), planned_seeds(one)) for one, cells in zip(judged, lines, strict=True) if cells[4]]
    assert f"direction for {len(needed)}." in summary
    assert f"power for {sum(n <= planned for n, planned in needed)} of these" in summary
    small = [cells for cells in lines if cells[5] != "n/a" and cells[6] and float(cells[5]) <= float(cells[6])]
    assert abs(int(re.search(r"For (\d+) of all", summary)[1]) - len(small)) <= 1  # the cells are rounded
