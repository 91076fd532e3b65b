"""The pictures and counts of the page on what replicates, from rows drawn at random."""

from __future__ import annotations

import re

import pytest
from support_studies import EVERYTHING, row

from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.studies.claims import VERDICTS, Claim, judge
from prmbench.studies.figures import Figure
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.replicate import PAIR, claims_table
from prmbench.studies.settings import BEST
from prmbench.studies.what_replicates import easy_claims, how_firm, pictures_of, verdict_counts, write

REPORTED = read_reported(resource_folder("leaderboards"))


@pytest.fixture(scope="module")
def results():
    return {run: [row(run, seed) for seed in range(3)] for run in EVERYTHING}


@pytest.fixture(scope="module")
def judged(results):
    return judge(CLAIMS, results, REPORTED)


def test_every_claim_of_the_paper_is_counted_once(judged):
    lines = verdict_counts(judged).splitlines()[2:]
    rows = {
        cells[0]: [int(n or 0) for n in cells[1:]]
        for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines)
    }
    paper = [one for one in judged if not one.claim.ours]
    for i, verdict in enumerate(VERDICTS):
        assert rows["all"][1 + i] == sum(one.verdict == verdict for one in paper)
    assert rows["all"][0] == len(paper) == sum(n[0] for where, n in rows.items() if where != "all")
    for n, *verdicts, starred in rows.values():
        assert sum(verdicts) == n >= starred
    assert "ours" not in rows


def test_claims_that_say_little_are_counted():
    """By hand: a rival that is far behind, candidates, cost, a rival that is not, and claims that do not appear or are ours."""
    figure = Figure("policy", "x", lambda row: row)
    good, failed, rival = (figure.of(name) for name in (BEST, "sft", "grpo"))
    rows = {good.run: [3.0, 3.1], failed.run: [1.0, 1.0], rival.run: [2.0, 2.0]}
    claims = [
        Claim("Table 5", "a", good, failed),
        Claim("Table 5", "b", good, rival),
        Claim("Table 5", "c", rival, good),
        Claim("Table 11", "d", 9.0, failed),
        Claim("Table 13", "e", 9.0, good),
        Claim("ours", "f", good, failed),
    ]
    said = easy_claims(judge(claims, rows))
    assert said.startswith(
        "Of the 4 claims that appear, 3 say little: against Q-RM, EndoRM, REINFORCE w/ Q-RM or the SFT"
    )
    assert said.endswith(
        "here (1), about candidate sets, to which the world was tuned (1), and about the cost of a step (1)."
    )


def test_how_firm_the_count_is():
    """By hand: of a clear claim, one that Holm's rule takes back, one that more looks take back, and one that is open."""
    figures = [Figure("policy", "x", lambda row, i=i: row[i]) for i in range(4)]
    clear, near, equal, open_ = (figure.of(BEST) for figure in figures)
    # The second and the third differ by 1 and 0 on average, with intervals of +- 0.92 at 95% and +- 1.40 at 98.3%.
    rows = [(5.0, 1.5, 0.5, 2.0), (5.1, 1.5, 0.5, -2.0), (5.0, 0.5, -0.5, 2.0), (5.1, 0.5, -0.5, -2.0)]
    claims = [
        Claim("Table 1", "clear", clear, 0.0),
        Claim("Table 1", "near", near, 0.0),  # p is 0.0405, and 0.081 after Holm's rule over three claims
        Claim("Table 1", "open", open_, 0.0),
        Claim("Table 2", "equal", equal, 0.0, margin=0.95),
        Claim("ours", "open", open_, 0.0),
    ]
    judged = judge(claims, {clear.run: rows})
    raw = how_firm(judged, 10)
    assert raw.startswith("How firm is this? 1 of the 4 claims are undecided by their own intervals.")
    assert raw.endswith("If each star counted as undecided, it would be 2.")
    said = how_firm(judged, 14)
    assert said.startswith(f"{raw} The undecided claims were also counted at 10 and 13 seeds")
    assert "Intervals of 98.3%, which pay for 3 looks by Bonferroni's rule, leave 3 undecided." in said
    assert "counted at 10 seeds" in how_firm(judged, 13)


def test_every_picture_is_drawn_and_says_what_it_shows(judged, results):
    drawn = pictures_of(judged, results)
    assert set(drawn) == {"claims", "shift", "credit", "rare", "moves", "best-of-n", "values"}
    for caption, picture in drawn.values():
        assert caption.endswith(".")
        assert picture.startswith("<svg")
    # A claim stands in the picture of claims if it has a unit.
    shown = drawn["claims"][1]
    with_unit = [one for one in judged if not one.claim.ours and one.margin > 0]
    assert len(re.findall("(?:Table|Fig\\.|Section) [0-9.]+[^<]*: ", shown)) == len(with_unit)
    assert "misconception" in drawn["moves"][1]
    # A dot for each seed, format and reward model: three seeds, three formats, six reward models.
    assert len(re.findall("<use [^>]*fill: #3b5ba5", drawn["shift"][1])) == 3 * 3 * 6


def test_the_page_counts_and_shows_everything(judged, results):
    pair = {run: [row(run, seed) for seed in range(5)] for run in PAIR}
    paragraphs, pictures = write(results, pair)
    text = "\n\n".join(paragraphs)
    assert "Seeds: 3; of DistRL and GRPO with IPVRM: 5." in text
    assert verdict_counts(judge(CLAIMS, results, REPORTED, pair)) in text
    assert how_firm(judge(CLAIMS, results, REPORTED, pair), 3) in text
    for file in pictures:
        assert f"]({file})" in text
    assert "--seeds 3 --pair-seeds 5 --rows docs/studies/rows" in text
    # Every claim of the paper stands under the heading of its verdict, and in no other part.
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    for one in judge(CLAIMS, results, REPORTED, pair):
        if not one.claim.ours:
            places = [part.splitlines()[0] for part in parts if f"| {one.claim.text} " in part and one.shown in part]
            assert [place.lower() for place in places] == [one.verdict]


def test_a_table_of_claims_has_the_columns_that_are_of_use(judged):
    ours, paper = ([one for one in judged if one.claim.ours is mine] for mine in (True, False))
    head = claims_table(paper, with_seeds=True).splitlines()[0]
    assert (
        head
        == "| paper | claim | the paper's effect | difference here | margin | here | seeds for the paper's effect |"
    )
    assert claims_table(ours).splitlines()[0] == "| paper | claim | difference here | margin | here |"
