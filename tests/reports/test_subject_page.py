from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import support
from matplotlib.image import imread
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.data.traces import load_traces
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.reports.subject_page import write_report
from prmbench.resources import resource_folder

QUICK = {"n_resamples": 50}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> & $x$"


@pytest.fixture(scope="module")
def evil(tiny, tiny_tuned, tmp_path_factory):
    """An entry whose every text carries markup: subject, generator, problem, steps; and its data."""
    root = tmp_path_factory.mktemp("evil")
    traces = support.make_traces(40)
    for trace in traces:
        trace["generator"] = EVIL
        trace["problem"] = f"{EVIL} {trace['problem']}"
        trace["steps"] = [f"{EVIL} {step}" for step in trace["steps"]]
    data = root / "a$b$.jsonl"
    data.write_text("".join(json.dumps(t) + "\n" for t in traces))
    prmbench.evaluate(tiny_tuned, reference=tiny, objective="ipvrm", data=data, output=root / "run", name=EVIL, **QUICK)
    return root / "run", data


def test_untrusted_text_is_escaped(evil, tmp_path):
    run, data = evil
    page = support.Page(write_report([run], tmp_path / "page.html", load_traces(data)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert page.text.count("<script>alert(1)</script>") > 20  # shown as the text it is


def test_everything_is_on_the_page(evil, tmp_path):
    run, data = evil
    path = write_report([run], tmp_path / "page.html", load_traces(data))
    page = support.Page(path)
    assert page.tags.count("svg") == 3  # F1 curve, scores around errors, reliability
    fields = json.loads((run / "entry.json").read_text())
    crossfit = fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]
    assert f"{100 * crossfit['value']:.1f} [{100 * crossfit['low']:.1f}, {100 * crossfit['high']:.1f}]" in page.text
    for found in (
        fields["items"]["sha256"],
        fields["benchmark"]["fingerprint"],
        *fields["subject"]["weights"].values(),
    ):
        assert found in page.text
    for policy in ("crossfit", "oracle", "fixed"):
        assert policy in page.text
    assert "What is" in page.text  # the problems
    assert page.tags.count("details") == 10
    assert "http:" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|"http://www.w3.org[^"]*"|http://purl[^"<]*|http://creativecommons[^"<]*',
        "",
        path.read_text(),
    )


def test_without_the_data_it_says_so(evil, tmp_path):
    page = support.Page(write_report([evil[0]], tmp_path / "page.html"))
    assert "Their text is not at hand" in page.text
    assert "What is" not in page.text


def test_worst_items_are_wrong_and_in_order(evil, tmp_path):
    page = write_report([evil[0]], tmp_path / "page.html").read_text()
    margins = [float(x) for x in re.findall(r"\(([\d.]+) standard deviations off\)", page)]
    assert margins == sorted(margins, reverse=True)
    for label, predicted in re.findall(r"first error (none|step \d+), predicted (none|step \d+)", page):
        assert label != predicted


def test_several_benchmarks_of_one_subject(tiny, tiny_tuned, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": f"p{i}", "problem": f"Say {i}.", "answer": "7"}) + "\n" for i in range(6))
    )
    params = SamplingParams(max_new_tokens=5)
    prmbench.measure_policy(
        str(tiny), subsets=[str(problems)], output=tmp_path / "policy", n=2, params=params, n_resamples=20
    )
    data = support.write_traces(tmp_path / "made.jsonl", 40)
    model = {"reference": tiny, "objective": "dpo", "name": "rm"}
    prmbench.evaluate(tiny_tuned, data=data, output=tmp_path / "bench", **QUICK, **model)
    prmbench.rerank(tiny_tuned, [tmp_path / "policy" / "p"], output=tmp_path / "bon", n_resamples=20, **model)
    page = support.Page(write_report([tmp_path / "bench", tmp_path / "bon"], tmp_path / "page.html"))
    assert "ProcessBench" in page.text
    assert "Best-of-N" in page.text
    alone = support.Page(write_report([tmp_path / "policy"], tmp_path / "policy.html"))
    assert "Completions by verdict" in alone.text
    with pytest.raises(UserError, match="a report is of one subject"):
        write_report([tmp_path / "bench", tmp_path / "policy"], tmp_path / "no.html")


def test_a_tampered_entry_gets_no_report(evil, tmp_path):
    copy = shutil.copytree(evil[0], tmp_path / "copy")
    text = (copy / "entry.json").read_text()
    fields = json.loads(text)
    fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"] = 0.99
    (copy / "entry.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="its items give"):
        write_report([copy], tmp_path / "page.html")


@pytest.mark.slow
def test_the_page_opens_in_a_browser(chromium, tmp_path):
    entry = resource_folder("leaderboards") / "entries" / "smollm2-135m-ipvrm"
    path = tmp_path / "page.html"
    assert CliRunner().invoke(app, ["report", str(entry), "--output", str(path)]).exit_code == 0
    picture = tmp_path / "page.png"
    support.browse(chromium, path, tmp_path / "profile", "--window-size=900,1600", f"--screenshot={picture}")
    image = imread(picture)
    assert image.shape[:2] == (1600, 900)
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # pictures and text, not a blank page
