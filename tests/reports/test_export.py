from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from pyarrow import parquet
from typer.testing import CliRunner

from prmbench.benchmarks.registry import load_measured
from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.reports.exchange import to_every_eval_ever, to_hub_results
from prmbench.reports.export import CSV_FIELDS, to_csv, to_latex, to_markdown, to_model_card, to_parquet
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


def test_latex_has_a_header(entry):
    comment, begin, _, header, _, row, _, end = to_latex([named(entry, "a_b & 50% \\x{}")]).splitlines()
    assert comment == "% processbench 4a7086b35761, in %, 95% intervals"
    assert header.startswith(" & F1 & F1 prefix & F1 process\\_mean & ")
    n_columns = header.count(" & ")
    assert begin == rf"\begin{{tabular}}{{l{'r' * n_columns}}}"
    assert end == r"\end{tabular}"
    assert row.startswith(r"a\_b \& 50\% \textbackslash{}x\{\} & ")
    assert row.endswith(r" \\")
    assert row.replace(r"\&", "").count(" & ") == n_columns
    f1 = entry.entry.metrics.protocols["process"].mean["crossfit"]
    assert rf"& {100 * f1.value:.1f} {{\scriptsize[{100 * f1.low:.1f}, {100 * f1.high:.1f}]}}" in row


def test_entries_of_one_fingerprint_share_a_table(entry):
    others = [load_measured(ENTRY.parent / name, items=False) for name in ("miniature-ipvrm", "miniature-dpo")]
    made = [others[0], entry, others[1]]
    assert to_latex(made).count("tabular}{") == 2
    first, *_, last = [line for line in to_markdown(made).splitlines() if line.startswith("| ")]
    assert first.startswith("| subject | F1 | tagged | plain |")
    assert last.startswith("| smollm2-135m-ipvrm | 23.9 [17.9, 29.7] |")
    assert to_markdown(made).count("| subject |") == 2
    card = to_model_card([entry])
    assert card.startswith("## Evaluation\n\n")
    assert to_markdown([entry]) in card


def test_an_unverified_preset_is_marked_at_its_row(entry):
    subject = entry.entry.subject.model_copy(update={"preset": "x", "unverified": True})
    marked = dataclasses.replace(entry, entry=entry.entry.model_copy(update={"subject": subject}))
    assert r"smollm2-135m-ipvrm \textit{(unverified)} & " in to_latex([marked])
    assert "| smollm2-135m-ipvrm (unverified) | " in to_markdown([marked])


def test_parquet_holds_what_csv_holds(entry):
    table = parquet.read_table(io.BytesIO(to_parquet([entry])))
    assert tuple(table.column_names) == CSV_FIELDS
    rows = list(csv.DictReader(io.StringIO(to_csv([entry]))))
    for mine, theirs in zip(table.to_pylist(), rows, strict=True):
        assert {key: "" if value is None else str(value) for key, value in mine.items()} == theirs


HOSTILE = "a\n\\input{/etc/passwd} \x1b[31m\r=1+1"


def test_hostile_text_in_every_field():
    """The subject's name and a subset's, in both formats: no command, no line more, nothing that a terminal acts on."""
    measured = load_measured(ENTRY.parent / "miniature-ipvrm", items=False)
    (subset, *_), fields = measured.entry.benchmark.subsets, measured.entry.model_dump(mode="json")
    fields = json.loads(json.dumps(fields).replace(json.dumps(subset), json.dumps(HOSTILE)))
    entry = type(measured.entry).model_validate(fields)
    made = named(dataclasses.replace(measured, entry=entry), HOSTILE)
    assert HOSTILE in made.entry.benchmark.subsets
    comment, *_, header, _, row, _, _ = to_latex([made]).splitlines()
    assert comment.startswith("% ")
    assert r"\input" not in header + row
    assert r"a \textbackslash{}input\{/etc/passwd\} ?[31m =1+1 & " in header
    assert r"a \textbackslash{}input\{/etc/passwd\} ?[31m =1+1 & " in row
    record = json.loads(to_every_eval_ever(made))
    assert "\x1b" not in json.dumps(record, ensure_ascii=False)
    assert len(to_markdown([made]).splitlines()) == len(to_markdown([measured]).splitlines())
    for text in (comment + row, to_csv([made]), to_markdown([made])):
        assert "\x1b" not in text
        assert "\r" not in text
    assert len(to_csv([made]).splitlines()) == len(to_csv([measured]).splitlines())


@pytest.mark.parametrize("name", sorted(path.name for path in ENTRY.parent.iterdir()))
def test_every_eval_ever(name):
    """What their schema asks for; with their package installed, their own validator says so too."""
    measured = load_measured(ENTRY.parent / name, items=False)
    record = json.loads(to_every_eval_ever(measured, now=1_800_000_000.0))
    needed = {"schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library"}
    assert needed <= record.keys()
    assert record["evaluation_id"].endswith("/1800000000")
    details = record["source_metadata"]["additional_details"]
    assert details["sha256 of items"] == measured.entry.items.sha256
    columns = measured.benchmark.columns([measured.entry])
    for result, column in zip(record["evaluation_results"], columns, strict=True):
        estimate = column.estimate(measured.entry)
        assert result["score_details"]["score"] == pytest.approx(100 * estimate.value)
        interval = result["score_details"]["uncertainty"]["confidence_interval"]
        assert interval["lower"] <= result["score_details"]["score"] <= interval["upper"]
        assert result["metric_config"]["lower_is_better"] is not column.higher_is_better
        details = result["source_data"]["additional_details"]
        assert all(isinstance(value, str) for value in details.values())
    on_hub = record["evaluation_results"][0]["source_data"].get("hf_repo")
    assert on_hub == ("Qwen/ProcessBench" if name.startswith("smollm2-135m-i") and "best" not in name else on_hub)
    if importlib.util.find_spec("every_eval_ever"):  # it needs a newer Python than we do
        importlib.import_module("every_eval_ever.eval_types").EvaluationLog.model_validate(record)


def test_results_for_the_hub(entry):
    """Read back with the Hub's own library."""
    (found,) = parse_eval_result_entries(yaml.safe_load(to_hub_results(entry)))
    assert (found.dataset_id, found.task_id, found.value) == ("Qwen/ProcessBench", "gsm8k", 23.92)
    assert "95% interval 17.9 to 29.7" in found.notes
    cut = entry.entry.model_copy(update={"benchmark": entry.entry.benchmark.model_copy(update={"limit": 3})})
    with pytest.raises(UserError, match="is of 3 items of each subset; the Hub shows results of whole data sets"):
        to_hub_results(dataclasses.replace(entry, entry=cut))
    with pytest.raises(UserError, match="is of the miniature"):
        to_hub_results(load_measured(ENTRY.parent / "miniature-dpo", items=False))
    with pytest.raises(UserError, match="none of its subsets .bon_math100_qwen25math_n8. is a data set of the Hub"):
        to_hub_results(load_measured(ENTRY.parent / "smollm2-135m-ipvrm-best-of-n-math100", items=False))


def test_the_command_line(tmp_path):
    runner = CliRunner()
    shown = runner.invoke(app, ["export", str(ENTRY), "--format", "latex"])
    assert shown.exit_code == 0
    assert shown.stdout.count("\n") == 8
    assert runner.invoke(app, ["export", str(ENTRY)]).stdout.startswith(",".join(CSV_FIELDS))
    wrong = runner.invoke(app, ["export", str(ENTRY), "--format", "markdwn"])
    assert isinstance(wrong.exception, UserError)
    assert "did you mean 'markdown'" in str(wrong.exception)
    assert "name a file with --output" in str(
        runner.invoke(app, ["export", str(ENTRY), "--format", "parquet"]).exception
    )
    two = runner.invoke(app, ["export", str(ENTRY), str(ENTRY), "--format", "every-eval-ever"])
    assert "has one entry a file, 2 were named" in str(two.exception)
    for form in ("parquet", "markdown", "model-card", "every-eval-ever", "hf-eval-results", "badge"):
        file = tmp_path / "new" / form
        done = runner.invoke(app, ["export", str(ENTRY), "--format", form, "--output", str(file)])
        assert done.stdout == f"{form}: {file}\n", done.exception
        assert file.stat().st_size > 100


def test_a_badge_has_the_first_figure_of_the_table():
    """The endpoint schema of shields.io takes these four keys as texts, and a version that is 1."""
    runner = CliRunner()
    real = json.loads(runner.invoke(app, ["export", str(ENTRY), "--format", "badge"]).stdout)
    assert set(real) == {"schemaVersion", "label", "message", "color"}
    assert real["schemaVersion"] == 1
    row = runner.invoke(app, ["export", str(ENTRY), "--format", "markdown"]).stdout.splitlines()[-1]
    assert real["message"] == row.split("|")[2].strip()
    assert real["label"].startswith("ProcessBench ")
    small = resource_folder("leaderboards") / "entries" / "miniature-ipvrm"
    label = json.loads(runner.invoke(app, ["export", str(small), "--format", "badge"]).stdout)["label"]
    assert label == "step errors F1 on tagged, plain, miniature"  # no data of ProcessBench


def test_what_puts_figures_at_risk_is_on_the_card_and_on_the_page(entry, tmp_path):
    """As the command line says it, escaped as all texts are; so does the page say whether a score beats one that knows nothing."""
    provenance = entry.entry.provenance.model_copy(update={"warnings": ["the <b>prompt</b> | differs"]})
    at_risk = dataclasses.replace(entry, entry=entry.entry.model_copy(update={"provenance": provenance}))
    for write in (to_markdown, to_model_card):
        assert "\n- smollm2-135m-ipvrm: At risk: the " in write([at_risk])
        assert "<b>" not in write([at_risk])
        assert "At risk" not in write([entry])
    section = load_measured(ENTRY).benchmark.section(
        dataclasses.replace(at_risk, items=load_measured(ENTRY).items), None
    )
    assert "At risk: the <b>prompt</b> | differs." in section.about
    assert any("the best score that knows nothing of the text (length only: 32.9)" in line for line in section.about)
