"""What tables of traces say in words."""

from __future__ import annotations

from prmbench.benchmarks.registry import load_measured
from prmbench.benchmarks.trace_tables import (
    against_blind,
    empty_steps,
    main_protocol,
    oracle_gap,
    undefined_rules,
    unverified,
)
from prmbench.resources import resource_folder
from prmbench.results.schema import Estimate


def test_each_score_stands_against_the_best_one_that_knows_nothing():
    found = {
        "a": Estimate(value=0.6, low=0.55, high=0.7),
        "b": Estimate(value=0.52, low=0.4, high=0.6),
        "c": Estimate(value=0.5),
        "d": None,
        "e": Estimate(value=0.51, low=0.45, high=0.6),
    }
    blind = {"random": Estimate(value=0.3), "position": Estimate(value=0.5), "length": Estimate(value=None), "x": None}
    assert against_blind(found, blind) == [
        "a (60.0) is above the best score that knows nothing of the text (position only: 50.0).",
        "b (52.0) and e (51.0) are not clearly above the best score that knows nothing of the text (position only: 50.0), which "
        "lies in the 95% interval.",
        "c (50.0) is NOT above the best score that knows nothing of the text (position only: 50.0).",
    ]
    assert against_blind(found, {}) == []


def test_what_puts_an_entry_at_a_distance_is_said():
    entry = load_measured(resource_folder("leaderboards") / "entries" / "miniature-ipvrm", items=False).entry
    main = main_protocol(entry)
    mean = entry.metrics.protocols[main].mean
    gap = 100 * (mean["oracle"].value - mean["crossfit"].value)
    (sentence,) = oracle_gap(entry)
    assert f"scored on: {gap:+.1f} points for {main} here" in sentence
    assert not unverified(entry)
    assert not undefined_rules(entry)
    n_empty = sum(data.counts["empty_steps"] for data in entry.benchmark.subsets.values())
    assert len(empty_steps(entry, "why")) == bool(n_empty)

    # The same entry of an unchecked preset, with steps that got no token and a rule that is not defined.
    (name, data), *_ = entry.benchmark.subsets.items()
    entry.benchmark.subsets[name] = data.model_copy(
        update={"counts": {**data.counts, "tokens": 9, "empty_steps": 1234}}
    )
    entry.metrics.protocols[main].subsets[name].undefined["oracle"] = "no wrong step"
    del mean["oracle"]
    changed = entry.model_copy(update={"subject": entry.subject.model_copy(update={"preset": "x", "unverified": True})})
    assert unverified(changed) == ["unverified: the preset x was not checked against numbers of its authors' code."]
    assert undefined_rules(changed) == [f"n/a: {name}, oracle threshold: no wrong step."]
    (sentence,) = empty_steps(changed, "why")
    assert sentence.endswith(" steps got no token of their own (why); their process score is 0.")
    assert not oracle_gap(changed)
    for one, data in entry.benchmark.subsets.items():  # scores made elsewhere come without tokens
        entry.benchmark.subsets[one] = data.model_copy(update={"counts": {**data.counts, "tokens": 0}})
    assert not empty_steps(changed, "why")
