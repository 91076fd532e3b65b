"""Entries of critics: votes instead of scores, from the metrics to the leaderboard."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pytest
import support
import support_prm
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import prmbench
from prmbench.benchmarks.differences import compare_sides as compare
from prmbench.benchmarks.differences import side_of
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.benchmarks.processbench.metrics import Statistics, compute_metrics, predict
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.benchmarks.processbench.table import render
from prmbench.benchmarks.registry import load_measured
from prmbench.errors import UserError
from prmbench.reports.leaderboard import add, read_boards
from prmbench.reports.subject_page import write_report
from prmbench.reports.verification import verify_entry
from prmbench.reward_models.loading import load_reward_model


def item(name, label, votes, n_steps=3, subset="gsm8k"):
    return TraceItem(subset, name, "g", label, "d", np.ones(n_steps, dtype=np.int64), votes=tuple(votes))


def test_hand_worked():
    items = [
        item("a", 1, [1, None, 2, 1]),  # found: the majority of what holds a verdict
        item("b", 0, [None, None]),  # no verdict: wrong
        item("c", 2, [7]),  # no step of the trace: wrong
        item("d", 2, [0, 2, 2]),  # found
        item("e", -1, [-1]),  # right
        item("f", -1, [None]),  # no verdict: wrong although -1 would have been right
        item("g", -1, [-2]),  # a number, but none that means anything
    ]
    found = compute_metrics(items, 1.0, {}, Statistics(n_resamples=50)).protocols
    assert list(found) == ["direct"]
    result = found["direct"].subsets["gsm8k"]
    direct = result.rules["direct"]
    assert (direct.acc_error.value, direct.acc_correct.value) == (2 / 4, 1 / 3)
    assert direct.f1.value == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert direct.thresholds == []
    assert result.votes.model_dump() == {"n": 13, "unparsed": 4, "undecided": 2, "outside": 2}
    assert found["direct"].mean["direct"].value == direct.f1.value
    assert direct.f1.low < direct.f1.value < direct.f1.high
    assert result.step_auc.value is None
    assert [(g.name, g.acc_error) for g in result.by_position] == [("0", 0.0), ("1", 1.0), ("2", 0.5)]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(-1, 2), st.lists(st.one_of(st.none(), st.integers(-3, 4)), min_size=1, max_size=5)),
        min_size=1,
        max_size=12,
    )
)
def test_against_a_plain_count(rows):
    """ProcessBench's own arithmetic, written out."""
    items = [item(f"t{i}", label, votes) for i, (label, votes) in enumerate(rows)]
    hits = {True: [], False: []}
    for label, votes in rows:
        counted = Counter(v for v in votes if v is not None)
        prediction = counted.most_common(1)[0][0] if counted else None
        hits[label != -1].append(prediction == label)
    found = (
        compute_metrics(items, 1.0, {}, Statistics(n_resamples=0)).protocols["direct"].subsets["gsm8k"].rules["direct"]
    )
    for value, group in ((found.acc_error.value, hits[True]), (found.acc_correct.value, hits[False])):
        assert value == (pytest.approx(np.mean(group)) if group else None)
    predictions = predict(items, 1.0, {}, protocol="direct", rule="crossfit")["gsm8k"]
    assert predictions.hits.sum() == sum(map(sum, hits.values()))


def test_items_survive_the_round_trip_and_mistakes_are_named():
    one = item("a", 1, [1, None, -1])
    again = PROCESSBENCH.parse("here", json.loads(one.line()))
    assert (again.votes, again.sums, again.scores, again.label) == ((1, None, -1), None, None, 1)
    fields = json.loads(one.line())
    for change, message in [
        ({"votes": []}, "must be a list of at least one vote"),
        ({"votes": [1.5]}, "field 'votes' is .*; expected a valid integer"),
        ({"votes": [True]}, "field 'votes' is .*; expected a valid integer"),
        ({"scores": [1.0]}, "expected one of 'sums', 'scores' and 'votes', found"),
        ({"label": 3}, "field 'label' is 3; expected -1 to 2"),
    ]:
        with pytest.raises(UserError, match=message):
            PROCESSBENCH.parse("here", {**fields, **change})


@pytest.fixture(scope="module")
def runs(smollm2, tiny, tmp_path_factory):
    """A real critic (whose tiny random model says nothing that parses), the same with votes put in, and a scored model."""
    folder = tmp_path_factory.mktemp("critics")
    data = folder / "data"
    data.mkdir()
    for seed, name in enumerate(("gsm8k", "math")):
        support.write_traces(data / f"{name}.jsonl", 12, seed)
    language_model = support_prm.save_causal(folder / "lm", support_prm.smol_tokenizer(smollm2), "qwen2")
    critic = load_reward_model(language_model, preset="processbench-critic", generation={"max_new_tokens": 3})
    options = {"n_resamples": 200}
    silent = prmbench.evaluate(critic, data=data, output=folder / "silent", name="silent", **options)
    score = critic.score
    answers = iter([(label,) for label in [-1, 0, 1, 2] * 6])
    critic.score = lambda batch: [one.__class__(one.n_tokens, votes=next(answers)) for one in score(batch)]
    talking = prmbench.evaluate(critic, data=data, output=folder / "talking", name="talking", **options)
    other = load_reward_model(tiny, kind="endo")
    scored = prmbench.evaluate(other, data=data, output=folder / "scored", name="scored", **options)
    return {"silent": silent, "talking": talking, "scored": scored, "data": data, "folder": folder}


def test_an_entry_of_a_critic(runs):
    entry, path = runs["silent"]
    assert (entry.subject.kind, entry.subject.preset, entry.subject.unverified) == (
        "critic",
        "processbench-critic",
        True,
    )
    assert entry.subject.scoring["generation"]["max_new_tokens"] == 3
    votes = [result.votes for result in entry.metrics.protocols["direct"].subsets.values()]
    assert [(v.n, v.unparsed, v.undecided) for v in votes] == [(12, 12, 12)] * 2
    assert entry.metrics.protocols["direct"].mean["direct"].value == 0
    assert "crossfit" in entry.metrics.baselines["length"].mean
    assert verify_entry(path) == []
    assert prmbench.recompute(path.parent).metrics == entry.metrics


def test_the_same_command_goes_on_with_what_is_there(runs, monkeypatch):
    entry, path = runs["talking"]
    model = load_reward_model(runs["folder"] / "lm", preset="processbench-critic", generation={"max_new_tokens": 3})
    monkeypatch.setattr(model, "score", None)  # nothing is left to score
    options = {"n_resamples": 200}
    again, _ = prmbench.evaluate(model, data=runs["data"], output=path.parent, name="talking", **options)
    assert again.metrics == entry.metrics
    other = load_reward_model(runs["folder"] / "lm", preset="processbench-critic", generation={"max_new_tokens": 4})
    with pytest.raises(UserError, match="subject.scoring.generation.max_new_tokens: 3 there, 4 now"):
        prmbench.evaluate(other, data=runs["data"], output=path.parent, name="talking", **options)


def shown(renderable):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_table(runs):
    text = shown(render(runs["silent"][0]))
    assert "silent (critic, processbench-critic (unverified)), 24 traces" in text
    assert "0 of 24 votes hold a verdict (0.0%); 24 traces have none and count as wrong" in text
    assert "direct (0.0) is NOT above the best score" in text
    assert "unverified: the preset processbench-critic was not checked" in text
    assert "Quote crossfit" not in text


def test_compare_leaderboard_and_report(runs, tmp_path):
    measured = [side_of(load_measured(runs[name][1])) for name in ("talking", "scored")]
    assert [one.protocol for one in measured] == ["direct", "process"]
    (pair,) = compare(measured, n_resamples=100)
    assert pair.mean.first == pytest.approx(runs["talking"][0].metrics.protocols["direct"].mean["direct"].value)
    board = tmp_path / "board"
    for name in ("talking", "silent", "scored"):
        add(runs[name][1].parent, board)
    (table,) = read_boards(board, n_resamples=100)
    cells = {line.name: line.cells for line in table.lines}
    assert cells["talking"][0].value == pytest.approx(100 * pair.mean.first)
    assert cells["talking"][table.columns.index("F1 oracle")].value is None
    assert cells["scored"][table.columns.index("F1 oracle")].value is not None
    assert any("unverified" in line.kind for line in table.lines)
    assert any("there is no threshold" in note for note in table.notes)
    page = write_report([runs["talking"][1]], tmp_path / "page.html").read_text()
    assert "12 of 12 votes hold a verdict" in page
    assert "unverified" in page


def test_a_critic_cannot_rerank(runs):
    from prmbench.benchmarks.judged import encode_completions
    from prmbench.data.prompts import find_prompt

    model = load_reward_model(runs["folder"] / "lm", kind="critic")
    with pytest.raises(UserError, match="a critic names the first wrong step"):
        encode_completions(model, [], find_prompt("boxed"))
