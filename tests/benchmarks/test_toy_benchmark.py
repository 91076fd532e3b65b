"""A benchmark of another package, found by its entry point, gets everything that prmbench's own have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support
import toy_benchmark

import prmbench
from prmbench.benchmarks.registry import BENCHMARKS
from prmbench.errors import UserError

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a command in an environment where a package offers the toy."""
    site = tmp_path_factory.mktemp("site")
    package = site / "toy-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[prmbench.benchmarks]\nrising = toy_benchmark:RISING\n")
    path = os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "prmbench", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def runs(run, tiny, tiny_tuned, tmp_path_factory):
    """Two models on the toy benchmark, and what the first run printed."""
    folder = tmp_path_factory.mktemp("runs")
    data = support.write_traces(folder / "made.jsonl", 30)
    asked = ["--kind", "endo", "--benchmark", "rising", "--data", data, "--margin-of-rise", "0.5", "--resamples", "50"]
    said = run("eval", "--rm", tiny, "--output", folder / "one", "--name", "one", *asked)
    run("eval", "--rm", tiny_tuned, "--output", folder / "two", "--name", "two", *asked)
    return folder, asked, said


def test_eval_shows_and_keeps_an_entry(runs):
    folder, _, said = runs
    assert "Rising: one (endo" in said
    assert "30 traces" in said
    fields = json.loads((folder / "one" / "entry.json").read_text())
    assert fields["benchmark"]["name"] == "rising"
    assert fields["metrics"]["margin_of_rise"] == 0.5
    rises = [json.loads(line)["rise"] for line in (folder / "one" / "items.jsonl").read_text().splitlines()]
    assert len(rises) == 30
    assert fields["metrics"]["rising"]["value"] == pytest.approx(sum(rise > 0.5 for rise in rises) / 30)


def test_the_help_has_its_options(run):
    said = run("eval", "--help")
    assert "Rising" in said
    assert "--margin-of-rise" in said


def test_figures_are_computed_again(run, runs):
    folder, _, _ = runs
    again = json.loads(run("eval", "--from-items", folder / "one", "--json"))
    assert again["metrics"] == json.loads((folder / "one" / "entry.json").read_text())["metrics"]
    run("leaderboard", "verify", folder / "one")


def test_a_changed_figure_is_found(run, runs, tmp_path):
    folder, _, _ = runs
    for name in ("entry.json", "items.jsonl"):
        (tmp_path / name).write_bytes((folder / "one" / name).read_bytes())
    fields = json.loads((tmp_path / "entry.json").read_text())
    fields["metrics"]["rising"]["value"] = 1.0
    (tmp_path / "entry.json").write_text(json.dumps(fields))
    with pytest.raises(AssertionError):
        run("leaderboard", "verify", tmp_path)


def test_compare_leaderboard_report_and_export(run, runs, tmp_path):
    folder, _, _ = runs
    both = folder / "one", folder / "two"
    assert "one minus two: share that rises in points" in run("compare", *both, "--resamples", "50")
    run("leaderboard", "add", *both, "--folder", tmp_path)
    run("leaderboard", "build", "--folder", tmp_path, "--resamples", "50")
    table = (tmp_path / "leaderboard.md").read_text()
    assert "## Rising" in table
    assert "| rank | subject | kind | rising |" in table
    run("report", folder / "one", "--output", tmp_path / "page.html")
    assert "Rising" in (tmp_path / "page.html").read_text()
    assert "rising" in run("export", *both)
    assert run("export", folder / "one", "--format", "latex").startswith("% rising ")
    assert "### RisingMetrics" in run("schema")
    assert "### Items of rising: Rise" in run("schema")


@pytest.mark.slow
def test_an_interrupted_run_goes_on(run, runs, tiny):
    folder, asked, _ = runs
    whole = (folder / "one" / "items.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "cut").mkdir()
    (folder / "cut" / "run.json").write_bytes((folder / "one" / "run.json").read_bytes())
    (folder / "cut" / "items.jsonl").write_bytes(b"".join(lines[:11]) + lines[11][:20])
    run("eval", "--rm", tiny, "--output", folder / "cut", "--name", "one", *asked)
    assert (folder / "cut" / "items.jsonl").read_bytes() == whole


def test_from_python(runs, monkeypatch):
    """A benchmark may also be registered in a process."""
    folder, _, _ = runs
    with pytest.raises(UserError, match=r"'benchmark.name' is \"rising\"; expected processbench"):
        prmbench.recompute(folder / "one")
    monkeypatch.setattr(
        BENCHMARKS, "_found", dict(BENCHMARKS._found)
    )  # what is registered here is forgotten afterwards
    prmbench.register_benchmark(toy_benchmark.RISING)
    entry = prmbench.recompute(folder / "one")
    assert entry.model_dump(mode="json") == json.loads((folder / "one" / "entry.json").read_text())
