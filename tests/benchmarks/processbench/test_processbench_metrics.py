from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prmbench.benchmarks.processbench.metrics import MOST_GENERATORS, Statistics, compute_metrics
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.data.traces import load_traces
from prmbench.stats.protocols import TOKEN_PROTOCOLS
from prmbench.stats.thresholds import fold_assignment

QUICK = Statistics(n_resamples=200, seed=0)


def random_items(n, seed, subset="gsm8k", decimals=1, step_valued=False):
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        steps = int(rng.integers(1, 7))
        values = rng.normal(size=steps).round(decimals)
        items.append(
            TraceItem(
                subset,
                f"{subset}-{i:03d}",
                f"g{rng.integers(3)}",
                int(rng.integers(-1, steps)) if i % 2 else -1,
                f"d{i}",
                rng.integers(0, 9, size=steps),
                **{"scores" if step_valued else "sums": values},
            )
        )
    return items


def slow_scores(item, protocol, beta):
    scores, total, length = [], 0.0, 0
    for value, count in zip(item.sums.tolist(), item.n_tokens.tolist(), strict=True):
        total, length = total + value, length + count
        scores.append(
            {
                "process": beta * value,
                "prefix": beta * total,
                "process_mean": beta * value / max(count, 1),
                "prefix_mean": beta * total / max(length, 1),
            }[protocol]
        )
    return scores


def slow_f1(pairs):
    """pairs: (prediction, label)."""
    wrong = [p == k for p, k in pairs if k >= 0]
    right = [p == k for p, k in pairs if k < 0]
    if not wrong or not right:
        return None, None, None
    a, b = sum(wrong) / len(wrong), sum(right) / len(right)
    return (2 * a * b / (a + b) if a + b else 0.0), a, b


def guess(scores, threshold):
    return next((i for i, s in enumerate(scores) if s < threshold), -1)


def grid_best(scored, labels):
    """The best F1 over every distinct outcome."""
    values = {s for row in scored for s in row}
    candidates = [*values, *(float(np.nextafter(v, np.inf)) for v in values)]
    return max(slow_f1([(guess(r, t), k) for r, k in zip(scored, labels, strict=True)])[0] for t in candidates)


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_equals_a_slow_loop(seed):
    beta = 2.5
    items = random_items(30, seed) + random_items(24, seed + 50, "math")
    shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
    found = compute_metrics(shuffled, beta, {"prefix": 0.0}, QUICK)
    assert tuple(found.protocols) == TOKEN_PROTOCOLS
    for name, protocol in found.protocols.items():
        for subset in ("gsm8k", "math"):
            here = [item for item in items if item.subset == subset]
            scored = [slow_scores(item, name, beta) for item in here]
            labels = [item.label for item in here]
            result = protocol.subsets[subset]
            oracle, transfer, crossfit = (result.rules[p] for p in ("oracle", "gsm8k", "crossfit"))
            assert oracle.f1.value == pytest.approx(grid_best(scored, labels), abs=1e-12)
            source = protocol.subsets["gsm8k"].rules["oracle"].thresholds
            assert transfer.thresholds == source
            expected = slow_f1([(guess(r, source[0]), k) for r, k in zip(scored, labels, strict=True)])
            assert (transfer.f1.value, transfer.acc_error.value, transfer.acc_correct.value) == pytest.approx(expected)
            folds = fold_assignment([i.id for i in here], np.array(labels) >= 0, 5, seed=0)
            pairs = [(guess(r, crossfit.thresholds[f]), k) for r, f, k in zip(scored, folds, labels, strict=True)]
            assert crossfit.f1.value == pytest.approx(slow_f1(pairs)[0])
            assert result.optimism == pytest.approx(oracle.f1.value - crossfit.f1.value)
            for group in result.by_position:
                low, _, high = group.name.rstrip("+").partition("-")
                top = 10**9 if group.name.endswith("+") else int(high or low)
                members = [(p, k) for p, k in pairs if k < 0 or int(low) <= k <= top]
                assert (group.f1, group.acc_error, group.acc_correct) == pytest.approx(slow_f1(members))
                assert group.n_error == sum(k >= 0 for _, k in members)
            assert sum(g.n_error for g in result.by_position) == sum(k >= 0 for k in labels)
            for group in result.by_generator:
                members = [pair for pair, item in zip(pairs, here, strict=True) if item.generator == group.name]
                assert group.f1 == (None if slow_f1(members)[0] is None else pytest.approx(slow_f1(members)[0]))
            flat = [
                (s, j != k)
                for row, k in zip(scored, labels, strict=True)
                for j, s in enumerate(row[: len(row) if k < 0 else k + 1])
            ]
            assert result.step_auc.value == pytest.approx(roc_auc_score([r for _, r in flat], [s for s, _ in flat]))
        for policy, mean in protocol.mean.items():
            assert mean.value == pytest.approx(np.mean([s.rules[policy].f1.value for s in protocol.subsets.values()]))
            assert mean.low <= mean.value <= mean.high
    fixed = found.protocols["prefix"].subsets["math"].rules["fixed"]
    here = [item for item in items if item.subset == "math"]
    assert fixed.f1.value == pytest.approx(
        slow_f1([(guess(slow_scores(i, "prefix", beta), 0.0), i.label) for i in here])[0]
    )
    assert "fixed" not in found.protocols["process"].mean


def test_beta_and_order_do_not_change_f1():
    items = random_items(40, 7)
    one, ten = (compute_metrics(order, beta, {}, QUICK) for order, beta in ((items, 1.0), (items[::-1], 10.0)))
    for name in TOKEN_PROTOCOLS:
        for policy in ("crossfit", "oracle"):
            assert one.protocols[name].mean[policy] == ten.protocols[name].mean[policy]


def test_another_subset_changes_nothing_but_the_mean():
    gsm8k, math = random_items(40, 1), random_items(40, 2, "math")
    alone, both = compute_metrics(math, 1.0, {}, QUICK), compute_metrics(gsm8k + math, 1.0, {}, QUICK)
    for kind in ("protocols", "baselines"):
        for name, result in getattr(alone, kind).items():
            other = getattr(both, kind)[name].subsets["math"]
            mine = result.subsets["math"]
            assert mine.rules["crossfit"] == other.rules["crossfit"]
            assert mine.step_auc == other.step_auc
    assert "gsm8k" not in alone.protocols["process"].subsets["math"].rules


def test_a_perfect_score_is_perfect():
    items = [
        TraceItem("s", f"i{n}", "g", k, "d", np.array([1, 1, 1]), sums=np.where(np.arange(3) == k, -1.0, 1.0))
        for n, k in enumerate([-1, 0, 1, 2, -1] * 4)
    ]
    process = compute_metrics(items, 1.0, {}, QUICK).protocols["process"].subsets["s"]
    assert [process.rules[p].f1.value for p in ("oracle", "crossfit")] == [1.0, 1.0]
    assert process.step_auc.value == 1.0
    assert process.rules["oracle"].thresholds == [0.0]
    assert process.optimism == 0.0


def test_baselines_know_nothing_of_the_scores():
    items = random_items(60, 3)
    other = [TraceItem(i.subset, i.id, i.generator, i.label, i.digest, i.n_tokens, sums=i.sums * -3 + 1) for i in items]
    first, second = (compute_metrics(case, 1.0, {}, QUICK) for case in (items, other))
    assert first.baselines == second.baselines
    assert first.protocols != second.protocols
    length = first.baselines["length"].subsets["gsm8k"].rules["oracle"].f1.value
    assert length == pytest.approx(grid_best([(-i.n_tokens).tolist() for i in items], [i.label for i in items]))


def test_one_class_alone_gives_reasons_not_numbers():
    items = [i for i in random_items(20, 0) if i.label >= 0]
    found = compute_metrics(items, 1.0, {"prefix": 0.0}, QUICK).protocols["prefix"]
    result = found.subsets["gsm8k"]
    assert set(result.undefined) == {"crossfit", "gsm8k", "oracle"}
    assert result.rules["fixed"].f1.value is None
    assert result.rules["fixed"].acc_error.value is not None
    assert found.mean == {}


def test_step_valued_models_have_one_protocol():
    found = compute_metrics(random_items(30, 4, step_valued=True), 1.0, {"step": 0.0}, QUICK)
    assert list(found.protocols) == ["step"]
    assert "fixed" in found.protocols["step"].mean


def test_nan_names_the_item():
    items = random_items(6, 0)
    items[2].sums[0] = np.nan
    with pytest.raises(ValueError, match="item 'gsm8k-002' of gsm8k has a NaN process score at step 0"):
        compute_metrics(items, 1.0, {}, QUICK)


def test_infinite_scores_are_scores():
    items = random_items(20, 0)
    items[0].sums[0], items[1].sums[0] = np.inf, -np.inf
    assert compute_metrics(items, 1.0, {}, QUICK).protocols["process"].mean["oracle"].value is not None


def test_seeded():
    items = random_items(40, 5)
    assert compute_metrics(items, 1.0, {}, QUICK) == compute_metrics(items, 1.0, {}, QUICK)
    other = compute_metrics(items, 1.0, {}, Statistics(n_resamples=200, seed=1))
    assert (
        other.protocols["process"].mean["crossfit"]
        != compute_metrics(items, 1.0, {}, QUICK).protocols["process"].mean["crossfit"]
    )


def test_position_baseline_on_real_labels(processbench):
    """The first step is always below, or every step is above: position alone finds errors at one place only."""
    traces = load_traces(processbench, ["gsm8k"])
    items = [
        TraceItem(
            t.subset,
            t.id,
            t.generator,
            t.label,
            t.digest(),
            np.array([len(s) for s in t.steps]),
            sums=np.zeros(len(t.steps)),
        )
        for t in traces
    ]
    found = compute_metrics(items, 1.0, {}, QUICK)
    position = found.baselines["position"].subsets["gsm8k"].rules["oracle"]
    best = 0.0
    for k in range(20):
        pairs = [(k if len(t.steps) > k else -1, t.label) for t in traces]
        best = max(best, slow_f1(pairs)[0])
    assert position.f1.value == pytest.approx(best)
    # Constant scores: no threshold finds anything.
    assert found.protocols["process"].subsets["gsm8k"].rules["oracle"].f1.value == 0.0


def test_as_many_generators_as_traces():
    """Groups take one pass over the traces, and a generator's name is as long as it likes."""
    names = [f"g{i:04}" for i in range(MOST_GENERATORS)]
    items = [
        TraceItem(subset="s", id=name, generator=name * (100 if i % 2 else 1), label=i % 3 - 1, digest="0" * 64,
                  n_tokens=np.array([3, 3]), sums=np.array([i % 5, i % 7]) - 3.0)
        for i, name in enumerate(names)
    ]  # fmt: skip
    statistics = Statistics(n_resamples=0)
    groups = compute_metrics(items, 1.0, {}, statistics).protocols["process"].subsets["s"].by_generator
    assert [group.name for group in groups] == sorted(item.generator for item in items)
    assert sum(group.n_error for group in groups) == sum(item.label >= 0 for item in items)
    one_more = [*items, dataclasses.replace(items[0], id="x", generator="x")]
    assert compute_metrics(one_more, 1.0, {}, statistics).protocols["process"].subsets["s"].by_generator == []
