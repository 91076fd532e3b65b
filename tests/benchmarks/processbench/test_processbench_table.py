"""The words and columns of a ProcessBench entry on the screen."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from prmbench.benchmarks.processbench.metrics import Statistics, compute_metrics
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.benchmarks.processbench.table import render
from prmbench.benchmarks.registry import load_measured
from prmbench.resources import resource_folder
from prmbench.results.schema import Estimate


@pytest.fixture
def shipped():
    return load_measured(resource_folder("leaderboards") / "entries" / "miniature-ipvrm", items=False).entry


def shown(entry):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(entry))
    return console.export_text()


def with_means(entry, **means):
    """The entry with other means over subsets: (value, low, high) by protocol."""
    protocols = {
        name: one.model_copy(update={"mean": {"crossfit": Estimate(value=means[name][0], low=means[name][1], high=1)}})
        for name, one in entry.metrics.protocols.items()
    }
    return entry.model_copy(update={"metrics": entry.metrics.model_copy(update={"protocols": protocols})})


def test_every_protocol_is_compared_with_what_knows_nothing(shipped):
    rival = shipped.metrics.baselines["position"].mean["crossfit"].value  # 17.4, the best of the three
    about = "the best score that knows nothing of the text (position only: 17.4)"
    changed = with_means(
        shipped, process=(0.5, 0.4), prefix=(0.2, rival), process_mean=(0.3, 0.18), prefix_mean=(rival, 0.1)
    )
    text = shown(changed)
    assert f"process (50.0) and process_mean (30.0) are above {about}." in text
    assert f"prefix (20.0) is not clearly above {about}, which lies in the 95% interval." in text.replace("\n", " ")
    assert f"prefix_mean (17.4) is NOT above {about}." in text


def test_several_subsets_keep_the_accuracies_and_the_auc(shipped):
    found = shipped.metrics.protocols["prefix"].subsets["plain"]
    rule = found.rules["crossfit"]
    cell = " / ".join(f"{100 * one.value:.1f}" for one in (rule.acc_error, rule.acc_correct, found.step_auc))
    (line,) = [line for line in shown(shipped).splitlines() if cell in line]
    assert line.split()[0] == "prefix"


def item(i, label, scores):
    return TraceItem("gsm8k", str(i), "x", label, "", np.ones(len(scores), dtype=np.int64), scores=np.array(scores))


def test_twelve_traces_without_a_hit_have_no_interval_of_width_0():
    """Every first step is flagged and never wrong: F1 is 0 in each resample, and yet 12 traces leave room."""
    wrong = [item(i, 1, [-5.0, 5.0]) for i in range(6)]
    right = [item(i, -1, [-9.0 - i, 5.0]) for i in range(6, 12)]
    found = compute_metrics([*wrong, *right], 1.0, {"step": 0.0}, Statistics(100)).protocols["step"]
    for estimate in (found.subsets["gsm8k"].rules["fixed"].f1, found.mean["fixed"]):
        assert (estimate.value, estimate.low) == (0, 0)
        assert estimate.high == pytest.approx(0.63, abs=0.001)
    # A step AUC of 1 has the bound of as many shares as there are traces with an error.
    apart = [item(i, 1, [5.0, -5.0]) for i in range(6)]
    auc = compute_metrics([*apart, item(9, -1, [5.0])], 1.0, {}, Statistics(100)).protocols["step"]
    found = auc.subsets["gsm8k"].step_auc
    assert (found.value, found.low, found.high) == (1, pytest.approx(0.025 ** (1 / 6)), 1)
