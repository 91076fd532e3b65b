from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from typer.testing import CliRunner

from prmbench.benchmarks.registry import load_measured
from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.reports.export import CSV_FIELDS, to_csv, to_latex
from prmbench.resources import resource_folder

ENTRY = resource_folder("leaderboards") / "entries" / "smollm2-135m-ipvrm"


@pytest.fixture
def entry():
    return load_measured(ENTRY, items=False)


def named(entry, name):
    subject = entry.entry.subject.model_copy(update={"name": name})
    return dataclasses.replace(entry, entry=entry.entry.model_copy(update={"subject": subject}))


def test_csv_holds_every_estimate(entry):
    rows = list(csv.DictReader(io.StringIO(to_csv([entry]))))
    assert tuple(rows[0]) == CSV_FIELDS
    fields = json.loads((ENTRY / "entry.json").read_text())["metrics"]
    assert len(rows) == json.dumps(fields).count('"low"')
    assert len({row["figure"] for row in rows}) == len(rows)
    for row in rows:
        found = fields
        for key in row["figure"].split("."):
            found = found[key]
        for name in ("value", "low", "high"):
            assert (float(row[name]) if row[name] else None) == found[name]
    assert {row["subject"] for row in rows} == {"smollm2-135m-ipvrm"}


def test_a_name_is_no_formula(entry):
    row = next(csv.DictReader(io.StringIO(to_csv([named(entry, "=1+1")]))))
    assert row["subject"] == "'=1+1"


def test_latex_row(entry):
    comment, row = to_latex([named(entry, "a_b & 50% \\x{}")]).splitlines()
    columns = comment.partition(": ")[2].split(", ")
    assert columns[0] == "F1"
    assert row.startswith(r"a\_b \& 50\% \textbackslash{}x\{\} & ")
    assert row.endswith(r" \\")
    f1 = entry.entry.metrics.protocols["process"].mean["crossfit"]
    assert rf"& {100 * f1.value:.1f} {{\scriptsize[{100 * f1.low:.1f}, {100 * f1.high:.1f}]}}" in row


def test_the_command_line():
    runner = CliRunner()
    shown = runner.invoke(app, ["export", str(ENTRY), "--format", "latex"])
    assert shown.exit_code == 0
    assert shown.stdout.count("\n") == 2
    assert runner.invoke(app, ["export", str(ENTRY)]).stdout.startswith(",".join(CSV_FIELDS))
    wrong = runner.invoke(app, ["export", str(ENTRY), "--format", "xml"])
    assert isinstance(wrong.exception, UserError)
