"""Step-labels figures from items, against plain loops, scikit-learn and ProcessBench's own figures."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from prmbench.benchmarks.processbench.metrics import Statistics
from prmbench.benchmarks.processbench.metrics import compute_metrics as processbench_metrics
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.benchmarks.step_labels.metrics import compute_metrics
from prmbench.benchmarks.step_labels.schema import LabelledItem
from prmbench.stats.calibration import reliability, sigmoid
from prmbench.stats.protocols import TOKEN_PROTOCOLS, token_protocol_scores

QUICK = Statistics(n_resamples=200, seed=0)
KNOWN = ("right", "wrong", "neutral")


def make(name, scores, labels, error_class=None, subset="s", **changes):
    first = labels.index("wrong") if "wrong" in labels else -1
    counts = np.arange(1, len(labels) + 1)
    values = None if scores is None else np.array(scores, dtype=float)
    fields = {"scores": values, "labels": tuple(labels), "error_class": error_class}
    return LabelledItem(subset, name, "g", first, f"d-{name}", counts, **{**fields, **changes})


def random_items(
    n, seed, subset="s", classes=("circular", "redundency", "deception"), labels=(*KNOWN, "unknown"), sums=False
):
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        steps = int(rng.integers(1, 7))
        drawn = [str(one) for one in rng.choice(labels, size=steps)]
        values = rng.normal(size=steps).round(1) + [0.5 if one == "right" else -0.5 for one in drawn]
        of = {"sums": values} if sums else {}
        items.append(
            make(
                f"{i:03d}", None if sums else values, drawn, str(rng.choice(classes)) if classes else None, subset, **of
            )
        )
    return items


def flat(items, score=lambda item: item.scores):
    pairs = [
        (s, label) for item in items for s, label in zip(score(item), item.labels, strict=True) if label != "unknown"
    ]
    return np.array([s for s, _ in pairs]), np.array([label != "wrong" for _, label in pairs])


def check_figures(found, right, kept):
    assert found.f1_right.value == pytest.approx(f1_score(right, kept))
    assert found.f1_wrong.value == pytest.approx(f1_score(~right, ~kept))
    assert found.prm_score.value == pytest.approx((f1_score(right, kept) + f1_score(~right, ~kept)) / 2)
    counts = found.counts
    assert [counts.tp, counts.fp, counts.tn, counts.fn] == [
        int((right & kept).sum()),
        int((~right & kept).sum()),
        int((~right & ~kept).sum()),
        int((right & ~kept).sum()),
    ]


def test_a_case_worked_by_hand():
    items = [
        make("a", [2.0, -1.0, 0.5], ["right", "wrong", "wrong"], "circular"),
        make("b", [1.0, -0.5], ["neutral", "right"], "multi_solutions"),
        make("c", [-2.0, 3.0], ["right", "unknown"], "circular"),
    ]
    found = compute_metrics(items, 1.0, {"step": 0.0}, {"step": 0.75}, QUICK).protocols["step"].subsets["s"]
    # At 0: kept are 2.0 (right), 0.5 (wrong), 1.0 (neutral); flagged -1.0 (wrong), -0.5 and -2.0 (right).
    fixed = found.rules["fixed"]
    assert (fixed.counts.tp, fixed.counts.fp, fixed.counts.tn, fixed.counts.fn) == (2, 1, 1, 2)
    assert fixed.f1_right.value == pytest.approx(4 / 7)
    assert fixed.f1_wrong.value == pytest.approx(2 / 5)
    assert fixed.prm_score.value == pytest.approx((4 / 7 + 2 / 5) / 2)
    assert fixed.balanced_f1.value == pytest.approx(0.5)
    assert fixed.accuracy.value == pytest.approx(0.5)
    # First errors: a is found (step 1); b is predicted at 1 and has none; c is open, because its last step is unknown.
    assert fixed.first_error_f1.value == 0.0
    # Solutions: a is wrong and flagged, b is right and flagged, c is open.
    assert fixed.solution_f1.value == pytest.approx((0 + 2 / 3) / 2)
    # A class without wrong steps has the F1 of its right steps, as PRMBench has it for multi_solutions.
    assert fixed.classes["multi_solutions"].prm_score.value == pytest.approx(2 / 3)
    assert fixed.classes["multi_solutions"].f1_wrong.value is None
    assert fixed.categories["sensitivity"].value == pytest.approx(2 / 3)
    circular = fixed.classes["circular"].prm_score.value
    assert circular == pytest.approx((1 / 2 + 1 / 2) / 2)  # kept 2.0 and 0.5, flagged -1.0 and -2.0
    assert fixed.categories["simplicity"].value == circular
    assert fixed.categories["all classes"].value == pytest.approx((circular + 2 / 3) / 2)
    assert found.rules["given"].thresholds == [0.75]
    assert found.rules["given"].counts.fp == 0


@pytest.mark.parametrize("sums", [False, True])
def test_every_rule_and_class_against_scikit_learn(sums):
    items = random_items(60, 1, sums=sums)
    known = {"prefix_mean": 0.0} if sums else {"step": 0.0}
    metrics = compute_metrics(items, 2.0, known, dict.fromkeys(known, 0.3), QUICK)
    assert tuple(metrics.protocols) == (TOKEN_PROTOCOLS if sums else ("step",))
    for name, protocol in metrics.protocols.items():
        found = protocol.subsets["s"]
        assert set(found.rules) == {"crossfit", "oracle", *({"given", "fixed"} if name in known else ())}

        def score(item, name=name):
            return token_protocol_scores(item.sums, item.n_tokens, 2.0)[name] if sums else item.scores

        scores, right = flat(items, score)
        assert found.step_auc.value == pytest.approx(roc_auc_score(right, scores))
        assert found.average_precision.value == pytest.approx(average_precision_score(~right, -scores))
        for rule in set(found.rules) - {"crossfit"}:
            one = found.rules[rule]
            (threshold,) = one.thresholds
            check_figures(one, right, scores >= threshold)
            for of, figures in one.classes.items():
                mine, theirs = flat([item for item in items if item.error_class == of], score)
                check_figures(figures, theirs, mine >= threshold)
        best = found.rules["oracle"].prm_score.value
        assert best >= max(found.rules[rule].prm_score.value for rule in found.rules) - 1e-12
        assert found.optimism == pytest.approx(best - found.rules["crossfit"].prm_score.value)
        if name in known:
            probability = sigmoid(scores)
            assert found.calibration.brier.value == pytest.approx(brier_score_loss(right, probability))
            assert found.calibration.ece.value == pytest.approx(reliability(probability, right.astype(float)).ece())
        else:
            assert found.calibration is None


def test_first_errors_are_processbench_s():
    items = random_items(50, 2, labels=("right", "wrong"))
    plain = [TraceItem(i.subset, i.id, i.generator, i.label, i.digest, i.n_tokens, scores=i.scores) for i in items]
    ours = compute_metrics(items, 1.0, {"step": 0.1}, {}, QUICK).protocols["step"].subsets["s"].rules["fixed"]
    theirs = processbench_metrics(plain, 1.0, {"step": 0.1}, QUICK).protocols["step"].subsets["s"].rules["fixed"]
    assert ours.first_error_f1.value == pytest.approx(theirs.f1.value)


def test_a_first_error_that_is_never_found_has_an_exact_bound_as_in_processbench():
    """Nothing is flagged, so that F1 is 0 in every resample."""
    items = random_items(50, 2, labels=("right", "wrong"))
    plain = [TraceItem(i.subset, i.id, i.generator, i.label, i.digest, i.n_tokens, scores=i.scores) for i in items]
    many = Statistics(500, 0)
    ours = compute_metrics(items, 1.0, {"step": -99.0}, {}, many).protocols["step"].subsets["s"].rules["fixed"]
    theirs = processbench_metrics(plain, 1.0, {"step": -99.0}, many).protocols["step"].subsets["s"].rules["fixed"]
    assert (ours.first_error_f1.value, ours.first_error_f1.low) == (0.0, 0.0)
    assert 0 < ours.first_error_f1.high == pytest.approx(theirs.f1.high)


def plain_prm_score(right, kept):
    def f1(truth, said):
        return 2 * np.sum(truth & said) / (np.sum(truth) + np.sum(said))

    return (f1(right, kept) + f1(~right, ~kept)) / 2


def test_intervals_resample_whole_traces():
    items = random_items(40, 3)
    found = compute_metrics(items, 1.0, {"step": 0.0}, {}, Statistics(4000, 0)).protocols["step"].subsets["s"]
    rng, values = (
        np.random.default_rng(9),
        {"prm_score": [], "auc": [], "average_precision": [], "brier": [], "circular": []},
    )
    for _ in range(300):
        drawn = [items[i] for i in rng.integers(len(items), size=len(items))]
        scores, right = flat(drawn)
        kept = scores >= 0
        values["prm_score"].append(plain_prm_score(right, kept))
        values["auc"].append(roc_auc_score(right, scores))
        values["average_precision"].append(average_precision_score(~right, -scores))
        values["brier"].append(brier_score_loss(right, sigmoid(scores)))
        scores, right = flat([item for item in drawn if item.error_class == "circular"])
        kept = scores >= 0
        values["circular"].append(plain_prm_score(right, kept))
    fixed = found.rules["fixed"]
    for name, one in {
        "prm_score": fixed.prm_score,
        "auc": found.step_auc,
        "average_precision": found.average_precision,
        "brier": found.calibration.brier,
        "circular": fixed.classes["circular"].prm_score,
    }.items():
        low, high = np.quantile(values[name], [0.025, 0.975])
        assert [one.low, one.high] == pytest.approx([low, high], abs=0.3 * (high - low)), name
        assert one.low < one.value < one.high


def test_nothing_depends_on_the_order_of_the_items():
    items = [*random_items(30, 4), *random_items(30, 5, subset="t")]
    shuffled = random.Random(0).sample(items, len(items))
    shuffled.sort(key=lambda item: item.subset)
    first, second = (compute_metrics(one, 1.0, {}, {}, QUICK).model_dump() for one in (items, shuffled))
    assert first == second
    mean = first["protocols"]["step"]["mean"]["crossfit"]["value"]
    subsets = first["protocols"]["step"]["subsets"].values()
    assert mean == pytest.approx(np.mean([one["rules"]["crossfit"]["prm_score"]["value"] for one in subsets]))
    assert set(first["baselines"]) == {"random", "position", "length"}


def test_a_subset_of_one_sort_of_steps_says_so():
    items = [make("a", [1.0, 0.0], ["right", "right"]), make("b", [1.0], ["unknown"])]
    found = compute_metrics(items, 1.0, {"step": 0.5}, {}, QUICK).protocols["step"].subsets["s"]
    assert set(found.rules) == {"fixed"}
    assert "needs right and wrong steps" in found.undefined["crossfit"]
    assert (found.step_auc.value, found.average_precision.value) == (None, None)
    assert found.rules["fixed"].prm_score.value == pytest.approx(2 / 3)
    none = compute_metrics([make("b", [1.0], ["unknown"])], 1.0, {"step": 0.5}, {}, QUICK).protocols["step"]
    assert none.subsets["s"].rules["fixed"].prm_score.value is None


def test_resamples_without_one_sort_of_solutions_are_left_out():
    items = [make(f"w{i}", [1.0, -1.0 if i % 3 else 0.5], ["right", "wrong"]) for i in range(9)]
    items.append(make("r", [1.0, 0.5], ["right", "right"]))
    fixed = compute_metrics(items, 1.0, {"step": 0.0}, {}, Statistics(4000, 0)).protocols["step"].subsets["s"]
    rng, values = np.random.default_rng(1), []
    for _ in range(2000):
        drawn = [items[i] for i in rng.integers(len(items), size=len(items))]
        right, kept = np.array([i.label < 0 for i in drawn]), np.array([i.scores.min() >= 0 for i in drawn])
        if right.any() and not right.all():
            values.append(plain_prm_score(right, kept))
    found = fixed.rules["fixed"].solution_f1
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=0.03)


def test_a_class_may_be_called_as_a_figure_is():
    names = {"solution_f1": "a", "first_error_f1": "b", "prm_score": "c"}
    plain, odd = (
        compute_metrics(random_items(40, 3, classes=classes), 1.0, {"step": 0.0}, {}, QUICK).protocols["step"]
        for classes in (tuple(names.values()), tuple(names))
    )
    rules = {rule: (one, odd.subsets["s"].rules[rule]) for rule, one in plain.subsets["s"].rules.items()}
    assert set(rules) == {"crossfit", "fixed", "oracle"}
    for one, other in rules.values():
        assert {names[of]: figures for of, figures in other.classes.items()} == one.classes
        assert (other.solution_f1, other.first_error_f1) == (one.solution_f1, one.first_error_f1)
