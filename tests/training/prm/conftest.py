"""Labelled traces to train on, and a recipe of a few updates."""

from __future__ import annotations

import json

import pytest
import support

from prmbench.training.prm.recipe import PRMRecipe


def records(n=32):
    """Sums with every step labelled; the last step of some is unknown, and each has soft labels, of four continuations a step."""
    found = []
    for i, trace in enumerate(support.make_traces(n)):
        k = trace["label"] if trace["label"] >= 0 else len(trace["steps"])
        labels = ["right"] * k + ["wrong"] * (len(trace["steps"]) - k)
        values = [0.75 if one == "right" else 0.25 for one in labels]
        counts = {"successes": [int(4 * value) for value in values], "trials": [4] * len(values)}
        if i % 5 == 0:
            labels[-1], values[-1] = None, None
            counts["successes"][-1] = counts["trials"][-1] = 0
        found.append({**trace, "labels": labels, "values": values, **counts})
    return [{name: value for name, value in one.items() if name != "label"} for one in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "labelled.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records()))
    return path


@pytest.fixture
def recipe(tiny, data, tmp_path):
    return PRMRecipe(
        objective="step_ce",
        model=str(tiny),
        data=str(data),
        output=str(tmp_path / "out"),
        held_out=6,
        epochs=3,
        batch_size=8,
        micro_batch_size=4,
        learning_rate=3e-3,
        schedule="constant",
        evaluate_every=3,
    )
