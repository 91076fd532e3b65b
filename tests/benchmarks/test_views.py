"""Entries, comparisons, tables and models as Python shows them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import prmbench
from prmbench.benchmarks.registry import load_measured
from prmbench.errors import UserError
from prmbench.reports.export import to_csv
from prmbench.resources import resource_folder

ENTRIES = resource_folder("leaderboards") / "entries"
SHIPPED = sorted(path.name for path in ENTRIES.iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_an_entry_in_a_few_lines_a_table_a_frame_and_a_picture(name):
    measured = load_measured(ENTRIES / name, items=False)
    entry = measured.entry
    assert entry.subject.name in repr(entry)
    assert str(entry) == repr(entry)
    assert 3 <= repr(entry).count("\n") + 1 <= 7
    assert max(map(len, repr(entry).splitlines())) <= 120
    assert entry.subject.name in entry.table().splitlines()[0]
    assert max(map(len, entry.table(width=90).splitlines())) <= 90
    rows = entry.to_frame()
    assert list(rows) == ["figure", "value", "low", "high"]
    assert len(rows) == to_csv([measured]).count("\n") - 1
    axis = entry.plot().axes[0]
    first = measured.benchmark.columns([entry])[0]
    assert axis.get_yticklabels()[0].get_text() == first.title
    assert axis.lines[0].get_xdata()[0] == pytest.approx(100 * first.estimate(entry).value)


def test_an_entry_of_anybody_prints_no_control_characters():
    entry = load_measured(ENTRIES / SHIPPED[0], items=False).entry
    evil = entry.model_copy(update={"subject": entry.subject.model_copy(update={"name": "a\x1b[31m\nb"})})
    assert "\x1b" not in repr(evil) + evil.table()
    gone = entry.model_copy(update={"benchmark": entry.benchmark.model_copy(update={"name": "gone"})})
    assert repr(gone).startswith("<Entry gone: ")  # of a package that is not installed


def test_a_comparison_and_the_tables_of_a_leaderboard():
    found = prmbench.compare([ENTRIES / "miniature-ipvrm", ENTRIES / "miniature-dpo"], n_resamples=100)
    assert repr(found) == "<Comparison processbench: ipvrm and dpo; .table() and .to_frame() show it>"
    assert "ipvrm minus dpo" in found.table()
    rows = found.to_frame().set_index("subset")
    assert list(rows.index) == ["tagged", "plain", "mean"]
    assert np.allclose(rows["figure_first"] - rows["figure_second"], rows["difference"])
    (board,) = [
        one
        for one in prmbench.leaderboard(ENTRIES.parent, n_resamples=20, verify=False)
        if one.benchmark == "processbench" and one.miniature
    ]
    assert "rows; .table() and .to_frame() show it" in repr(board)
    assert "length only" in board.table()
    assert list(board.to_frame()["subject"]) == [line.name for line in board.lines]


def test_without_pandas_a_frame_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="to_frame needs pandas: `pip install pandas`"):
        load_measured(ENTRIES / SHIPPED[0], items=False).entry.to_frame()


def test_a_model_in_a_few_lines(tiny, tiny_tuned):
    model = prmbench.load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")
    shown = repr(model)
    assert str(tiny_tuned) in shown
    assert "implicit, ipvrm" in shown
    assert "parameters" in shown
    assert "on cpu in float32, engine hf" in shown
    assert shown.count("\n") <= 3


@pytest.mark.parametrize(
    ("call", "wrong", "meant"),
    [
        (lambda: prmbench.evaluate("x", subset=["gsm8k"]), "subset", "subsets"),
        (lambda: prmbench.evaluate("x", skip_overlog=True), "skip_overlog", "skip_overlong"),
        (lambda: prmbench.evaluate("x", refrence="y"), "refrence", "reference"),
        (lambda: prmbench.load_traces(subset="x"), "subset", "subsets"),
        (lambda: prmbench.recompute("x", resamples=3), "resamples", "n_resamples"),
        (lambda: prmbench.score_solutions(None, [], treshold=1), "treshold", "threshold"),
        (lambda: prmbench.report("x", outptu="y"), "outptu", "output"),
        (lambda: prmbench.leaderboard("x", verfy=False), "verfy", "verify"),
        (lambda: prmbench.train_reward_model("miniature/rm.yaml", learning_rat=1), "learning_rat", "learning_rate"),
    ],
)
def test_unknown_keywords_name_the_nearest(call, wrong, meant):
    with pytest.raises(TypeError, match=rf"unexpected keyword '{wrong}' \(did you mean '{meant}'\?\)"):
        call()


def test_unknown_choices_and_settings_name_the_nearest(tiny):
    paths = [ENTRIES / "miniature-ipvrm", ENTRIES / "miniature-dpo"]
    with pytest.raises(UserError, match="`protocl=`: means nothing for processbench .did you mean 'protocol'"):
        prmbench.compare(paths, protocl="prefix")
    with pytest.raises(UserError, match="did you mean 'margin'"):
        prmbench.load_reward_model(tiny, kind="endo", margn=3)
