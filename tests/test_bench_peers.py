"""`scripts/bench_peers.py`: our side of every kind makes its steps, at a tiny size."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import sys

import pytest

from prmbench.resources import resource_folder


@pytest.fixture
def bench(monkeypatch):
    scripts = resource_folder("training").parent / "scripts"
    monkeypatch.syspath_prepend(str(scripts))  # for what the scripts share
    spec = importlib.util.spec_from_file_location("bench_peers", scripts / "bench_peers.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_peers", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "dpo", "ipvrm"])
def test_our_side_makes_its_steps(bench, kind, tmp_path):
    options = argparse.Namespace(
        kind=kind, vocabulary=300, width=16, layers=1, tokens=24, micro=4, threads=1, steps=1, ipvrm=None
    )
    meter = bench.Meter(1, updates=2 if kind == "grpo" else 1)
    made = bench.MAKERS[kind](options, tmp_path, meter, "ours")
    with contextlib.suppress(bench.Finished):
        made.train()
    found = meter.found(sum(one.numel() for one in made.model.parameters()))
    assert found["seconds"] > 0
    if kind != "grpo":
        assert math.isfinite(found["loss"])
