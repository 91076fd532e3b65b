from __future__ import annotations

import html
import json
import math
import re
import shutil

import numpy as np
import pytest
import support
from matplotlib.image import imread

import prmbench
from prmbench.benchmarks.processbench.section import _margin
from prmbench.data.traces import load_traces
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.reports.subject_page import step_colour, write_report

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
    assert page.tags.count("script") == 1  # the viewer's
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
    assert page.tags.count("details") == 40  # every item
    assert "http:" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|"http://www.w3.org[^"]*"|http://purl[^"<]*|http://creativecommons[^"<]*',
        "",
        path.read_text(),
    )


def test_without_the_data_it_says_so(evil, tmp_path):
    page = support.Page(write_report([evil[0]], tmp_path / "page.html"))
    assert "Their text is not shown" in page.text
    assert "What is" not in page.text


def test_all_items_stand_in_order_of_how_wrong_they_are(evil, tmp_path):
    page = write_report([evil[0]], tmp_path / "page.html").read_text()
    found = re.findall(
        r"first error (none|step \d+), predicted (none|step \d+) <span class=\"tag\">([\w ]+)</span> "
        r"<small>\(([-\d.]+) standard deviations (off|of room)\)",
        page,
    )
    assert len(found) == 40
    margins = [float(number) * (1 if how == "off" else -1) for *_, number, how in found]
    assert margins == sorted(margins, reverse=True)
    for label, predicted, outcome, _, how in found:
        assert (label == predicted) == (outcome == "right") == (how == "of room")
        first, flagged = (
            math.inf if text == "none" else int(text.removeprefix("step ")) for text in (label, predicted)
        )
        if outcome != "right":
            names = {"false alarm": label == "none", "error missed": predicted == "none"}
            expected = next(
                (name for name, holds in names.items() if holds), "too early" if flagged < first else "too late"
            )
            assert outcome == expected


def test_how_wrong_a_prediction_is():
    """The smallest change of one score, or of the threshold, that makes it right; or wrong, below 0."""
    row = np.array([3.0, -2.0, 1.0])
    assert _margin(row, 1, 1, 0.0) == -2  # -2 is 2 below the threshold, 3 is 3 above it
    assert _margin(row, -1, -1, -3.0) == -1
    assert _margin(row, -1, 1, 0.0) == 2  # flagged, and nothing is wrong
    assert _margin(row, 2, -1, -3.0) == 4  # the first error lies 4 above
    assert _margin(row, 2, 1, 0.5) == 2.5  # flagged by 2.5 too early; the error itself lies 0.5 above
    assert _margin(np.full(3, np.nan), 2, 1, np.nan) == 1
    assert _margin(np.array([-np.inf, np.inf]), -1, -1, -np.inf) == 0


def test_one_scale_of_colours_is_told_apart_by_the_colour_blind():
    """Lightness and hue change evenly; with red-green blindness simulated (Machado 2009), both ends still differ clearly."""
    colours = np.array([[int(x) for x in re.findall(r"\d+", step_colour(s))] for s in np.linspace(-1, 1, 41)]) / 255
    assert np.abs(np.diff(colours, axis=0)).max() < 0.05  # no jump
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    protan = np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    )
    deutan = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
    for blind in (np.eye(3), protan, deutan):
        red, middle, green = (linear @ blind.T)[[0, 20, 40]]
        assert min(np.linalg.norm(red - green), np.linalg.norm(red - middle), np.linalg.norm(green - middle)) > 0.15


def test_counts_are_whole_and_sampling_is_said(tiny, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"id": "a", "problem": "Say 7.", "answer": "7"}\n')
    params = SamplingParams(max_new_tokens=5, temperature=0.75)
    prmbench.measure_policy(
        tiny, subsets=[str(problems)], output=tmp_path / "policy", n=3, params=params, n_resamples=20
    )
    page = write_report([tmp_path / "policy"], tmp_path / "page.html").read_text()
    verdicts = page.partition("Completions by verdict")[2].partition("</table>")[0]
    counts = re.findall(r"<td>([^<]+)</td>", verdicts)[1:]
    assert sum(map(int, counts)) == 3
    assert "Completions: temperature 0.75, top-p" in page
    assert "setting: prompt" in page


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


WATCH = """<script>
const viewer = document.querySelector(".viewer"), details = [...viewer.querySelectorAll("details")];
const set = (name, value) => {
  const e = viewer.querySelector(name); e.value = value; e.dispatchEvent(new Event(name === "input" ? "input" : "change"));
};
const shown = () => details.filter(d => d.offsetParent !== null).length;
const seen = {all: shown(), said: viewer.querySelector("output").textContent};
set("select", "false alarm"); seen.alarms = shown();
seen.others = details.filter(d => !d.hidden && d.dataset.outcome !== "false alarm").length;
set("select", ""); set("input", details[5].querySelector(".text").textContent.slice(-9).toUpperCase());
seen.searched = shown();
set("input", "nothing has this"); seen.none = shown(); set("input", "");
details[0].style.contentVisibility = "visible";
seen.closed = details[0].offsetHeight;
details[0].querySelector("summary").click();
seen.open = details[0].offsetHeight;
const box = name => details[0].querySelector(name).getBoundingClientRect();
seen.below = box(".text").top >= box(".score").bottom - 1; seen.beside = box(".text").left >= box(".score").right;
seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.width = window.innerWidth; seen.page = getComputedStyle(document.body).backgroundColor;
document.title = JSON.stringify(seen);
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1000, False), (500, True)])
def test_the_page_in_a_browser_at_two_widths(evil, chromium, tmp_path, width, dark):
    """Opened, filtered, searched and clicked: nothing is wider than the window, and score and text stand apart."""
    page = write_report([evil[0]], tmp_path / "page.html", load_traces(evil[1]))
    copy = tmp_path / "watched.html"
    copy.write_text(page.read_text().replace("</body>", WATCH + "</body>"))
    how = [f"--window-size={width},1200", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    dom = support.browse(chromium, copy, tmp_path / "profile", *how, "--dump-dom")
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert seen["width"] == width
    assert seen["wide"] <= 0
    assert (seen["all"], seen["said"], seen["none"], seen["others"]) == (40, "40 of 40", 0, 0)
    assert 0 < seen["alarms"] < 40
    assert 0 < seen["searched"] < 40
    assert seen["open"] > 2 * seen["closed"]
    assert seen["below"] if width < 640 else seen["beside"]
    assert seen["page"] == ("rgb(23, 24, 28)" if dark else "rgb(255, 255, 255)")
    picture = tmp_path / "page.png"
    support.browse(chromium, page, tmp_path / "profile", *how, f"--screenshot={picture}")
    image = imread(picture)
    assert image.shape[:2] == (1200, width)
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # pictures and text, not a blank page
