from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from support_studies import EVERYTHING, row
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.errors import ArgumentError, UserError
from prmbench.miniature.build import Build
from prmbench.miniature.solutions import FORMATS
from prmbench.reports.reported import PAPER, read_reported
from prmbench.resources import resource_folder
from prmbench.stats.power import pairs_needed
from prmbench.studies.claims import Claim, PaperRows, judge
from prmbench.studies.figures import Figure, RunDifference, RunRatio
from prmbench.studies.lab import Lab
from prmbench.studies.layout import Layout, cell_text, our_ordering, paper_orderings
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.paper_tables import ABSENT, NUMBERS, TABLES
from prmbench.studies.replicate import PAIR, replicate
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import POLICIES, REWARD_MODELS
from prmbench.studies.work import _perform, perform_runs


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Rows of every run on two seeds, where runs leave them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed in (0, 1):
        for run in EVERYTHING:
            place = run.place(Lab(seed).folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(row(run, seed)))
    return tmp_path


def test_every_table_of_the_paper_is_there_or_said_to_be_absent():
    assert {*NUMBERS, *ABSENT} == {*(str(n) for n in range(1, 15)), "fig6", "4.3.3"}


def test_every_claim_is_tested_by_the_runs_of_the_tables():
    runs = set(EVERYTHING)
    for claim in CLAIMS:
        assert claim.runs, claim.text
        assert set(claim.runs) <= runs, claim.text
        assert bool(claim.tables) != claim.ours, claim.where
        assert bool(claim.sentence) != claim.ours, claim.text
    assert len({(c.where, c.text) for c in CLAIMS}) == len(CLAIMS)
    for where, numbers in (("Tables 1, 12", {"1", "12"}), ("Fig. 6, left", {"fig6"}), ("Section 4.3.3", {"4.3.3"})):
        assert Claim(where, "x", 1.0, 0.0).tables == numbers


def test_runs_have_names_that_exist():
    for run in EVERYTHING:
        assert run.name in (POLICIES if run.kind in ("policy", "candidates", "step") else REWARD_MODELS)


def test_places_are_those_that_the_measurements_use(tmp_path, monkeypatch):
    """Different settings, different files; another seed, another folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = [run.place(Lab(seed).folder) for seed in (0, 1) for run in EVERYTHING]
    assert len(set(places)) == len(places)
    assert all(Build(seed=0).folder() in place.parents for place in places[: len(EVERYTHING)])


def claim_of(first, second, **more):
    a, b = (Figure("td", "x", lambda row, i=i: row[i]).of("ipvrm") for i in (0, 1))
    (judged,) = judge([Claim("Table 1", "x", a, b, **more)], {a.run: [*zip(first, second, strict=True)]})
    return judged


def test_verdicts():
    assert claim_of([3.0, 3.1, 2.9], [1.0, 1.2, 1.1]).verdict == "appears"
    assert claim_of([1.0, 1.2, 1.1], [3.0, 3.1, 2.9]).verdict == "does not appear"
    assert claim_of([1.0, 3.0, 2.0], [2.0, 1.0, 2.5]).verdict == "undecided"
    assert claim_of([9.0], [1.0]).verdict == "undecided"  # one seed decides nothing
    assert claim_of([1.0, 1.1, 1.2], [1.1, 1.0, 1.2], margin=1.0).verdict == "practically equal"
    lost = claim_of([1.0, float("nan")], [0.0, 0.0])
    assert (lost.verdict, lost.shown) == ("undecided", "n/a: a figure is not defined on some seed")
    assert claim_of([3.0, 3.2], [1.0, 1.0]).shown == "+2.1 [+0.8, +3.4]"


def test_the_end_that_decides_is_not_written_as_0():
    near = claim_of([0.001, 0.0011, 0.0012], [0.0, 0.0, 0.0])  # 0.00110 +- 0.00025
    assert (near.verdict, near.shown) == ("appears", "+0.001 [+0.001, +0.001]")
    assert claim_of([0.0, 0.0, 0.0], [0.001, 0.0011, 0.0012]).shown == "-0.001 [-0.001, -0.001]"
    # At most three digits more: what is smaller is shown as 0.
    assert claim_of([1e-5, 1e-5, 1e-5], [0.0, 0.0, 0.0]).shown == "+0.0000 [+0.0000, +0.0000]"
    # Where no end decides, the claim's own digits.
    assert claim_of([0.1, -0.1, 0.03], [0.0, 0.0, 0.0]).shown == "+0.0 [-0.2, +0.3]"


def test_a_stricter_level_decides_less():
    """By hand: 1 +- t * sqrt(1/3)/sqrt(4) with t(3) = 3.182 at 95% and 5.841 at 99%."""
    found = claim_of([1.5, 1.5, 0.5, 0.5], [0.0] * 4)
    assert (found.verdict, found.verdict_at(0.99)) == ("appears", "undecided")
    same = claim_of([0.5, 0.5, -0.5, -0.5], [0.0] * 4, margin=1.0)
    assert (same.verdict, same.verdict_at(0.99)) == ("practically equal", "undecided")
    no_worse = claim_of([0.5, 0.5, -0.5, -0.5], [0.0] * 4, margin=1.0, at_least=True)
    assert (no_worse.verdict, no_worse.verdict_at(0.99)) == ("appears", "undecided")


def test_no_worse_is_above_less_the_margin():
    first, second = [1.0, 1.1, 1.2], [1.1, 1.0, 1.2]
    assert claim_of(first, second, margin=1.0, at_least=True).verdict == "appears"
    assert claim_of(first, second, margin=0.1, at_least=True).verdict == "undecided"
    assert claim_of([1.0, 1.2, 1.1], [3.0, 3.1, 2.9], margin=1.0, at_least=True).verdict == "does not appear"
    found = claim_of([3.0, 3.1, 2.9], [3.5, 3.7, 3.6], margin=1.0, at_least=True)
    assert found.shown == "-0.6 [-0.8, -0.4]"  # the difference is shown as it is
    assert found.p == pytest.approx(ttest_1samp(np.array([0.5, 0.4, 0.3]), 0).pvalue)


def test_seeds_for_no_worse_count_the_margin_too():
    rows = PaperRows("10", "m = 5", "m = 0")  # the paper's effect: 2.1
    reported = read_reported(resource_folder("leaderboards"))
    a, b = (Figure("td", "x", lambda row, i=i: row[i]).of("ipvrm") for i in (0, 1))
    seeds = {a.run: [(1.0, 0.0), (5.0, 0.0), (-3.0, 0.0)]}
    above, no_worse = (
        judge([Claim("Table 10", "x", a, b, paper=rows, margin=0.7, at_least=one)], seeds, reported)[0]
        for one in (False, True)
    )
    assert above.seeds_needed == pairs_needed(2.1, 4.0)
    assert no_worse.seeds_needed == pairs_needed(2.8, 4.0)


def test_a_direction_within_the_margin_is_said_to_be():
    assert claim_of([1.2, 1.1, 1.15], [1.0, 1.0, 1.0], margin=1.0).verdict_shown == "appears, within the margin"
    assert claim_of([1.2, 1.1, 1.15], [1.0, 1.0, 1.0], margin=0.1).verdict_shown == "appears"
    assert claim_of([1.2, 1.1, 1.15], [1.0, 1.0, 1.0], margin=1.0, at_least=True).verdict_shown == "appears"


def test_differences_and_ratios_of_runs():
    a, b = (Figure("td", "x", lambda row, i=i: row[i]).of("ipvrm") for i in (0, 1))
    rows = {a.run: [(3.0, 2.0), (8.0, 4.0)]}
    assert RunDifference(a, b).values(rows) == [1.0, 4.0]
    assert RunRatio(a, b).values(rows) == [1.5, 2.0]
    assert RunDifference(a, b).runs == (a.run,)


def test_cells():
    cell = Figure("td", "x", lambda row: row["x"], 2).of("ipvrm")

    def text(*values, **options):
        return cell_text(cell, {cell.run: [{"x": value} for value in values]}, **options)

    assert text(1.0, 2.0) == "1.50 [-4.85, 7.85]"
    assert text(float("nan"), 1.0) == "n/a"
    assert text(float("nan"), 1.0, undefined="") == ""
    assert cell_text(None, {}) == ""
    assert text(0.5) == "0.50"


def test_the_page_from_what_is_kept(kept):
    output = kept / "out"
    done = CliRunner().invoke(app, ["replicate", "--seeds", "2", "--output", str(output)])
    assert done.exit_code == 0, done.output
    text, page = (output / "replicate.md").read_text(), (output / "replicate.html").read_text()
    for layout in TABLES:
        assert f"## {layout.heading}" in text
        assert layout.heading.replace("'", "&#39;") in page
    assert page.count("<svg") == 2
    assert "Table 12: Best-of-N on AMC-23" in text
    assert "Qwen3-0.6B-Base: IPVRM 39.1 &gt; Q-RM 38.2" in page
    # A figure by hand: Table 9's second row.
    averages = [100 * np.mean(row(StudyRun("policy", "distrl ipvrm"), s)["right"]) / 8 for s in (0, 1)]
    assert re.search(rf"\| DistRL w/ IPVRM \| {np.mean(averages):.1f} \[", text)
    table = next(layout for layout in TABLES if layout.number == "9")
    results = perform_runs(table.runs, (0, 1))
    assert f"Here: {our_ordering(table, results)}." in text
    facts = json.loads((output / "replicate.json").read_text())
    assert len(facts["runs"]) == len(EVERYTHING)
    assert len(facts["claims"]) == len(CLAIMS)
    paper = [c["verdict"] for c in facts["claims"] if c["where"] != "ours"]
    counts = [f"{paper.count(v)} {v}" for v in ("appears", "does not appear", "practically equal", "undecided")]
    assert f"claims: {', '.join(counts)}" in done.stdout
    assert "## Claims of ours" in text
    assert "Claims of ours" in page
    # The paper's effect and the margin of one claim by hand: Table 9's backbones gain 1.5 and 1.0.
    (one,) = (c for c in facts["claims"] if c["where"] == "Table 9")
    assert one["paper"] == pytest.approx({"Qwen3-0.6B-Base": 1.5, "Llama-3.2-1B": 1.0})
    assert one["margin"] == pytest.approx(1.25 / 3)


def test_two_policies_may_have_more_seeds_than_all_else(kept):
    """Claims about them alone are judged on all of their seeds; tables show the seeds that everything has."""
    for seed in (2, 3):
        for run in PAIR:
            place = run.place(Lab(seed).folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(row(run, seed)))
    asked = ["--table", "5", "--table", "6", "--seeds", "2", "--pair-seeds", "4", "--rows", str(kept / "rows")]
    done = CliRunner().invoke(app, ["replicate", *asked, "--output", str(kept / "out")])
    assert done.exit_code == 0, done.output
    assert len(list((kept / "rows").glob("seed-*.jsonl.gz"))) == 4  # what was done here is given
    facts = json.loads((kept / "out" / "replicate.json").read_text())
    seeds = {c["claim"]: len(c["by_seed"]) for c in facts["claims"]}
    assert seeds["avg@8: DistRL w/ IPVRM above GRPO w/ IPVRM"] == 4
    assert set(seeds.values()) == {2, 4}
    assert seeds["avg@8: DistRL w/ IPVRM above SFT"] == 2
    assert {len(r["files"]) for r in facts["runs"] if StudyRun(r["kind"], r["name"]) in PAIR} == {4}
    (one,) = (c for c in facts["claims"] if c["where"] == "Table 6, 5")
    averages = [[100 * np.mean(row(run, s)["right"]) / 8 for s in range(4)] for run in PAIR]
    assert one["by_seed"] == pytest.approx(np.subtract(*averages))
    text = (kept / "out" / "replicate.md").read_text()
    assert "Claims about DistRL w/ IPVRM and GRPO w/ IPVRM alone are judged on 4 seeds." in text
    best = [100 * np.mean(row(PAIR[0], s)["right"]) / 8 for s in (0, 1)]
    assert re.search(rf"\| DistRL w/ IPVRM \| {np.mean(best):.1f} \[", text)


def test_every_sentence_with_figures_is_read_from_the_papers_tables():
    """Every row that a claim names is there; where the paper's own backbones disagree, the page says on how many it holds."""
    reported = read_reported(resource_folder("leaderboards"))
    without = {c.where.partition(",")[0] for c in CLAIMS if not c.ours and not c.effects(reported)}
    assert without == {"Table 6", "Table 10", "Fig. 6", "Section 4.3.3", "Table 11", "Table 13"}
    assert sum(not c.effects(reported) for c in CLAIMS if c.where == "Table 6") == 2
    (competitive,) = (c for c in CLAIMS if c.where == "Table 1" and "Q-RM" in c.text)
    assert competitive.effects(reported) == pytest.approx(
        {"Qwen3-0.6B-Base": 1.0, "Qwen3-8B-Base": -0.5, "Llama-3.2-1B": 0.3, "Llama-3.2-3B": 1.0}
    )
    figures = {run: [row(run, seed) for seed in (0, 1)] for run in EVERYTHING}
    judged = {j.claim.text: j for j in judge(CLAIMS, figures, reported)}
    assert judged[competitive.text].paper_said == "+0.4, 3 of 4 backbones"
    # No margin is negative, and the one of an ordering that the paper's mean contradicts is none.
    assert all(j.margin >= 0 for j in judged.values())
    assert judged["F1 (process), shifted formats: Q-RM above DPO-RM"].paper_said == "+4.7, 3 of 4 backbones"


def test_what_is_said_to_be_best_is_compared_with_each_of_the_others():
    """4.2.2 says which variant is best; the uniform one, the most balanced, is above the one that is not meant for the task."""
    compared = {c.where: [] for c in CLAIMS}
    for c in CLAIMS:
        compared[c.where].append(tuple(run.name for run in c.runs))
    late, uniform, early = "ipvrm_late", "ipvrm", "ipvrm_early"
    assert compared["Table 3"] == [(late, uniform), (late, early), (uniform, early)]
    assert compared["Table 4"] == [(early, uniform), (early, late), (uniform, late)]


def test_the_margin_of_the_two_gains_is_a_third_of_their_mean_difference_in_table_6():
    """Qwen3-0.6B: 16.7 - 16.3 against 14.1 - 14.0. Llama-3.2-1B: 4.8 - 4.7 against 4.7 - 4.5."""
    (claim, _) = (c for c in CLAIMS if "what DistRL adds" in c.text)
    mean = ((16.7 - 16.3) - (14.1 - 14.0) + (4.8 - 4.7) - (4.7 - 4.5)) / 2
    assert claim.margin == pytest.approx(mean / 3)


def test_holm_within_a_table_and_seeds_for_the_papers_effect():
    names = ("endo", "dpo", "implicit_prm")
    claims = [c for c in CLAIMS if c.where in ("Table 2", "Table 2, 14") and "IPVRM above" in c.text]
    figures = {}
    for name, gap in (*zip(names, (1.0, 2.0, 30.0), strict=True), ("ipvrm", 0.0), ("q_rm", 0.0)):
        rows = [row(StudyRun("reward model", name), seed) for seed in range(4)]
        for seed, one in enumerate(rows):
            for form in FORMATS:
                one["f1"]["crossfit"][form]["process"] = (50 - gap + (0.5 if name == "ipvrm" else 0.1) * seed) / 100
        figures[StudyRun("reward model", name)] = rows
    judged = judge(claims, figures, read_reported(resource_folder("leaderboards")))
    assert all(j.adjusted >= j.p for j in judged)
    by_name = {j.claim.text.rpartition(" above ")[2]: j for j in judged}
    assert by_name["Implicit PRM"].verdict == "appears"
    assert by_name["Implicit PRM"].values == pytest.approx([30.0, 30.4, 30.8, 31.2])
    assert by_name["Implicit PRM"].spread == pytest.approx(np.std([30.0, 30.4, 30.8, 31.2], ddof=1))
    assert by_name["Implicit PRM"].seeds_needed == 2  # +8.9 with a spread of 0.5


def test_one_table_is_that_table(kept):
    done = CliRunner().invoke(app, ["replicate", "--table", "9", "--seeds", "2", "--output", str(kept / "one")])
    assert done.exit_code == 0, done.output
    text = (kept / "one" / "replicate.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == ["Claims", "Table 9: Policies by reference (DistRL w/ IPVRM)"]
    assert len(json.loads((kept / "one" / "replicate.json").read_text())["runs"]) == 2


def test_every_claim_of_a_table_is_judged_with_that_table(kept):
    """Also those whose runs are of other tables."""
    for number in ("1", "3"):
        output = kept / number
        done = CliRunner().invoke(app, ["replicate", "--table", number, "--seeds", "2", "--output", str(output)])
        assert done.exit_code == 0, done.output
        found = {(c["where"], c["claim"]) for c in json.loads((output / "replicate.json").read_text())["claims"]}
        assert {(c.where, c.text) for c in CLAIMS if number in c.tables} <= found


def test_equal_figures_are_not_ordered():
    figure = Figure("policy", "x", lambda row: row["x"])
    rows = [(name, [figure.of(name)]) for name in ("a", "b", "c")]
    results = {cell.run: [{"x": x}] for (_, (cell,)), x in zip(rows, (70.31, 70.34, 71.0), strict=True)}
    assert our_ordering(Layout("5", "", "", [""], rows), results) == "c 71.0 > b 70.3 = a 70.3"
    (table,) = (
        one for one in read_reported(resource_folder("leaderboards")) if (one.source, one.table) == (PAPER, "6")
    )
    layout = next(one for one in TABLES if one.number == "6")
    assert "DistRL w/ DPO-RM 4.7 = DistRL w/ Implicit PRM 4.7" in paper_orderings(layout, [table])[1]


def test_what_it_refuses(kept):
    with pytest.raises(ArgumentError, match="`table=15`: not known") as found:
        replicate(["15"])
    assert found.value.name == "table"

    def said(*arguments):
        return str(CliRunner().invoke(app, ["replicate", *arguments]).exception)

    assert "--table 15: not known" in said("--table", "15")
    (kept / "file").touch()
    assert "file: cannot be written" in said("--table", "9", "--seeds", "1", "--output", str(kept / "file"))
    assert "--figure 5: only Fig. 6" in said("--figure", "5")
    assert "Table 1 on another problem set" in said("--table", "12")


def descendants(pid):
    """Process ids of everything that a process has started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below, size = {pid}, 0
    while len(below) > size:
        size = len(below)
        below |= {child for child, parent in found.items() if parent in below}
    return below - {pid}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_leaves_no_process_behind(how, tmp_path):
    command = [sys.executable, "-m", "prmbench", "replicate", "--table", "9", "--seeds", "2", "--workers", "2"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen([*command, "--output", tmp_path / "out"], env=environment) as run:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("*.lock")):  # a worker is at work
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        below = descendants(run.pid)
        assert len(below) >= 2
        run.send_signal(how)
    deadline = time.monotonic() + 10
    while left := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_process_that_ends_before_its_time_is_said(kept, monkeypatch):
    monkeypatch.setattr("prmbench.studies.work._work", os.abort)
    with pytest.raises(UserError, match=r"its process ended \(exit code 1\)"):
        _perform([(EVERYTHING[0], 0)], 1, lambda run, seed: None)


@pytest.mark.slow
def test_jobs_run_in_processes_of_their_own(kept, capsys):
    done = []
    jobs = [(run, seed) for run in EVERYTHING[:4] for seed in (0, 1)]
    _perform(jobs, 2, lambda *job: done.append(job), n_kept=3)
    said = [f"run {i} of 11: {run.kind} {run.name}, seed {seed}" for i, (run, seed) in enumerate(jobs, start=4)]
    assert capsys.readouterr().err.splitlines() == said
    assert sorted(map(str, done)) == sorted(map(str, jobs))
