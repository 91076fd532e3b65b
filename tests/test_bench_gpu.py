"""`scripts/bench_gpu.py` measures what it says: every way runs at a tiny size on the CPU, and its FLOPs are torch's own count."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prmbench.resources import resource_folder


@pytest.fixture(scope="module")
def bench():
    file = resource_folder("training").parent / "scripts" / "bench_gpu.py"
    spec = importlib.util.spec_from_file_location("bench_gpu", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_gpu"]


def settings(bench, way, dtype="float32"):
    return bench.Setting(way, dtype, "tiny", 8, 32, "cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("way", ["score-hf", "sample-hf", "rm", "grpo", "distrl"])
def test_every_way_runs(bench, way, dtype):
    found = bench.measure(settings(bench, way, dtype))
    assert found["tokens_per_second"] > 0
    assert found["tflops"] > 0
    assert (found["loss"] is not None) == (way in ("rm", "grpo", "distrl"))
    line = bench.row({**found, "device": "NVIDIA H200", "tflops": 98.9}, None)
    assert ("10.0%" in line) == (dtype == "bfloat16")
    assert "20.0%" in bench.row({**found, "tflops": 10.0}, 50.0)


@pytest.mark.parametrize("way", ["score-hf", "rm", "grpo"])
def test_flops_are_those_that_torch_counts(bench, way, monkeypatch):
    """It counts products of matrices, and attention whole, where a causal model needs half of it on average."""
    make = bench.make_model

    def eager(setting, seed=0):
        made = make(setting, seed)
        made.set_attn_implementation("eager")
        return made

    monkeypatch.setattr(bench, "make_model", eager)
    run, tokens, flops = bench.prepare(settings(bench, way))
    assert tokens == 8 * 32
    with FlopCounterMode(display=False) as counter:
        run()
    shape = bench.SHAPES["tiny"]
    half = 8 * 32 * shape["layers"] * 2 * shape["heads"] * shape["head_dim"] * 32
    passes = {"score-hf": 1, "rm": 3, "grpo": 9}[way]
    assert counter.get_total_flops() == pytest.approx(flops + passes * half, rel=1e-3)


@pytest.mark.slow
def test_one_command(bench, tmp_path, monkeypatch, capsys):
    output = tmp_path / "figures.json"
    arguments = ["--cpu", "--no-vllm", "--only", "grpo,distrl", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [bench.__file__, *arguments])
    bench.main()
    shown = capsys.readouterr().out
    assert "distrl / grpo in bfloat16:" in shown
    assert "grpo: float32 / bfloat16" in shown
    assert output.exists()
    monkeypatch.setattr(sys, "argv", [bench.__file__, "--cpu", "--minutes", "0.01", "--only", "grpo"])
    bench.main()
    assert "no time was left for: grpo bfloat16, grpo float32" in capsys.readouterr().out
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", [bench.__file__])
        with pytest.raises(SystemExit, match="there is no GPU here"):
            bench.main()
