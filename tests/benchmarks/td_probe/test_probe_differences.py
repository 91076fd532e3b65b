from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import kendalltau, pearsonr
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from prmbench.benchmarks.registry import load_measured
from prmbench.benchmarks.td_probe.differences import AS_TD, compare_probes
from prmbench.benchmarks.td_probe.differences_table import render
from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.stats.weighted import cluster_weights


def pairs_of(measured, **options):
    return compare_probes(measured, **options).pairs


@pytest.fixture(scope="module")
def probes(probe_folders):
    return [load_measured(probe_folders / name / "entry.json") for name in ("first", "negated", "other")]


def by_figure(pair):
    return {(one.signal, one.figure): one for one in pair.figures}


def test_against_the_negated_signal_a_correlation_is_doubled(probes):
    """With the entry's own draws, so are the ends of its interval."""
    (pair,) = pairs_of(probes[:2], n_resamples=60)
    found = by_figure(pair)
    signals = probes[0].entry.metrics.branches.signals
    for name in ("pearson", "within", "agreement"):
        of_entry = getattr(signals["td"], name)
        one = found["td", name]
        assert (one.first, one.second) == pytest.approx((of_entry.value, -of_entry.value), abs=1e-9)
        assert (one.value, one.low, one.high) == pytest.approx(
            (2 * of_entry.value, 2 * of_entry.low, 2 * of_entry.high), abs=1e-9
        )
    assert found["td", "auc"].value == pytest.approx(2 * signals["td"].auc.value - 1, abs=1e-9)
    assert "policy" not in {signal for signal, _ in found}


@pytest.mark.filterwarnings("ignore:An input array is constant", "ignore:Only one class is present")
def test_against_resamples_written_out(probes):
    """Rollouts of the problems drawn, one by one, through SciPy and scikit-learn."""
    a, b = probes[0], probes[2]
    pair = pairs_of([a, b], n_resamples=40, seed=3)[0]
    a, b = compare_probes([a, b], n_resamples=1).sides
    cluster = a.columns.branches.cluster
    draws = [np.ones(len(cluster)), *cluster_weights(cluster, 40, np.random.default_rng(3))]
    plain = {"pearson": [], "auc": [], "agreement": []}
    for weights in draws:
        rows = [
            (item.state, x, y, k < item.right, item.right)
            for item, x, y, w in zip(a.items, a.columns.signals["td"], b.columns.signals["td"], weights, strict=True)
            for _ in range(int(w))
            for k in range(item.rolled)
        ]
        outcome = np.array([row[3] for row in rows])
        sides = [np.array([row[i] for row in rows]) for i in (1, 2)]
        plain["pearson"].append(np.subtract(*(pearsonr(side, outcome).statistic for side in sides)))
        plain["auc"].append(np.subtract(*(roc_auc_score(outcome, side) for side in sides)))
        taus = []
        for state in dict.fromkeys(row[0] for row in rows):
            of_state = [row for row in rows if row[0] == state]
            if len({row[4] for row in of_state}) > 1:
                times = len(of_state) // (4 * 3)  # a problem drawn twice has its state twice
                one = dict.fromkeys((x, y, right) for _, x, y, _, right in of_state)
                each = [kendalltau([r[i] for r in one], [r[2] for r in one]).statistic for i in (0, 1)]
                taus += [each] * times
        plain["agreement"].append(np.subtract(*np.mean(taus, axis=0)) if taus else np.nan)
    for name, (value, *samples) in plain.items():
        one = by_figure(pair)["td", name]
        low, high = np.nanquantile(samples, [0.025, 0.975])
        assert (one.value, one.low, one.high) == pytest.approx((value, low, high), abs=1e-6), name


def test_with_itself_nothing_differs_and_all_are_corrected_together(probes):
    same, *others = pairs_of([probes[0], dataclasses.replace(probes[0]), probes[2]], n_resamples=60)
    assert {(one.value, one.p, one.p_holm) for one in same.figures} == {(0.0, 1.0, 1.0)}
    for one in (one for pair in others for one in pair.figures):
        assert one.p <= one.p_holm <= 1


def test_other_branches_cannot_be_compared(probes):
    a, b = probes[:2]
    changed = [*b.items[:5], dataclasses.replace(b.items[5], right=(b.items[5].right + 1) % 3), *b.items[6:]]
    with pytest.raises(
        UserError, match=r"branch 1 of problem 'p\d' .a. is not the same in both, or has other rollouts"
    ):
        compare_probes([a, dataclasses.replace(b, items=changed)])
    with pytest.raises(UserError, match="is not the same in both"):
        compare_probes([a, dataclasses.replace(b, items=b.items[:-1])])
    settings = {**b.entry.benchmark.settings, "seed": 1}
    benchmark = b.entry.benchmark.model_copy(update={"settings": settings})
    with pytest.raises(UserError, match=r"field 'benchmark.settings.seed' is 0 and 1"):
        compare_probes([a, dataclasses.replace(b, entry=b.entry.model_copy(update={"benchmark": benchmark}))])
    with pytest.raises(UserError, match="two entries or more"):
        compare_probes([a])


def test_rounding_of_the_policys_log_prob_is_no_other_branch(probes):
    a, b = probes[:2]
    items = [dataclasses.replace(item, logprob=item.logprob + 2e-6) for item in b.items]
    assert compare_probes([a, dataclasses.replace(b, items=items)], n_resamples=5)


def test_a_figure_is_counted_once(probes):
    """Within a state the value before the branch is constant, so the value orders and correlates as TD does."""
    for one in probes:
        signals = one.entry.metrics.branches.signals
        for signal, figure in AS_TD:
            assert getattr(signals[signal], figure).value == pytest.approx(
                getattr(signals["td"], figure).value, abs=1e-9
            )
    (pair,) = pairs_of(probes[:2], n_resamples=5)
    assert not AS_TD & by_figure(pair).keys()


def command(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return str(done.exception) if isinstance(done.exception, UserError) else done.output


def test_the_command(probe_folders, probes):
    said = command("compare", probe_folders / "first", probe_folders / "negated", "--resamples", 60)
    assert "td-probe: 2 subjects on the same 48 branches of 12 states" in said
    assert "first minus negated" in said
    value = probes[0].entry.metrics.branches.signals["td"].pearson.value
    assert f"{2 * value:+.3f} [" in said
    telling = {item.id for item in probes[0].items if item.right} & {i.id for i in probes[0].items if i.right < 3}
    assert f"Only {len(telling)} problems have right and wrong rollouts" in said
    found = json.loads(
        command("compare", probe_folders / "first", probe_folders / "other", "--resamples", 60, "--json")
    )
    assert found["pairs"][0]["figures"][0].keys() == {
        *("signal", "figure", "first", "second", "value", "low", "high", "p", "p_holm")
    }
    assert "60 resamples are too few for the correction" in said
    assert "entries of candidates are not compared item by item" in command(
        "compare", probe_folders / "candidates", probe_folders / "candidates"
    )
    assert "candidates and td-probe: entries of different benchmarks" in command(
        "compare", probe_folders / "first", probe_folders / "candidates"
    )
    assert "means nothing for" in command("compare", probe_folders / "first", probe_folders / "other", "--n", 4)
    assert "figure,value,low,high" in command("export", probe_folders / "first")
    assert "branches.signals.td.pearson" in command("export", probe_folders / "first")
    assert "entries of td-probe have no table" in command("export", probe_folders / "first", "--format", "latex")


def test_differences_that_are_no_chance_are_said(probes):
    (pair,) = pairs_of(probes[:2], n_resamples=60)
    found = by_figure(pair)
    sure = [found["td", "pearson"], found["td", "auc"], found["value", "spearman"]]
    figures = tuple(
        dataclasses.replace(one, p_holm=0.01, value=v) for one, v in zip(sure, (0.2, 0.1, -0.3), strict=True)
    )
    console = Console(width=120, record=True, file=io.StringIO())
    comparison = compare_probes(probes[:2], n_resamples=60)
    console.print(render(dataclasses.replace(comparison, pairs=[dataclasses.replace(pair, figures=figures)])))
    said = console.export_text()
    assert "TD: first is significantly above negated: Pearson; AUC.\n" in said
    assert "V(s'): negated is significantly above first: Spearman.\n" in said
