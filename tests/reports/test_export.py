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


HOSTILE = "a\n\\input{/etc/passwd} \x1b[31m\r=1+1"


def test_hostile_text_in_every_field():
    """The subject's name and a subset's, in both formats: no command, no line more, nothing that a terminal acts on."""
    measured = load_measured(ENTRY.parent / "miniature-ipvrm", items=False)
    (subset, *_), fields = measured.entry.benchmark.subsets, measured.entry.model_dump(mode="json")
    fields = json.loads(json.dumps(fields).replace(json.dumps(subset), json.dumps(HOSTILE)))
    entry = type(measured.entry).model_validate(fields)
    made = named(dataclasses.replace(measured, entry=entry), HOSTILE)
    assert HOSTILE in made.entry.benchmark.subsets
    comment, row = to_latex([made]).splitlines()
    assert "a \\input{/etc/passwd} ?[31m =1+1" in comment  # on one line, where LaTeX reads nothing
    assert comment.startswith("% ")
    assert r"\input" not in row
    assert r"a \textbackslash{}input\{/etc/passwd\} ?[31m =1+1 & " in row
    for text in (comment + row, to_csv([made])):
        assert "\x1b" not in text
        assert "\r" not in text
    assert len(to_csv([made]).splitlines()) == len(to_csv([measured]).splitlines())


def test_the_command_line():
    runner = CliRunner()
    shown = runner.invoke(app, ["export", str(ENTRY), "--format", "latex"])
    assert shown.exit_code == 0
    assert shown.stdout.count("\n") == 2
    assert runner.invoke(app, ["export", str(ENTRY)]).stdout.startswith(",".join(CSV_FIELDS))
    wrong = runner.invoke(app, ["export", str(ENTRY), "--format", "xml"])
    assert isinstance(wrong.exception, UserError)
