"""What a step of GRPO and DistRL costs, by the step benchmark (Table 13). A seed has its own random models and rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prmbench.results.schema import digest
from prmbench.studies.lab import Lab, kept
from prmbench.studies.settings import PolicySettings

STEP_SIZES = {
    "vocabulary": 16_000,
    "width": 256,
    "layers": 4,
    "prompts": 2,
    "tokens": 128,
    "micro": 4,
    "sharpen": 12,
}
"""Small enough for one thread; sharpened to the 1.33 candidates a state that Table 11 has at P_min 0.1."""
N_TIMED = 5
"""Timed steps of each way."""


def measure_step(lab: Lab, settings: PolicySettings, output: Path) -> dict[str, Any]:
    """Measure a step of a method. Both methods are measured together, in turns, whichever is asked for first.

    Args:
        lab: The seed; no data or model of it is used.
        settings: The policy, of which the method counts.
        output: Not used.

    Returns:
        ``seconds``; ``peak_gib``; ``size``, the candidates of a state. See `prmbench.studies.step_bench.measure_in_turns`.
    """
    place = lab.folder / f"steps-{digest([STEP_SIZES, N_TIMED])[:12]}.json"
    found: dict[str, Any] = kept(place, lambda: _measure(lab.build.seed))[settings.method]
    return found


def _measure(seed: int) -> dict[str, dict[str, float]]:
    from prmbench.studies.step_bench import BenchStep, StepShape, measure_in_turns
    from prmbench.training.plan import GIB

    shape = StepShape(**STEP_SIZES)
    found = measure_in_turns({name: BenchStep(name, shape, seed) for name in ("grpo", "distrl")}, N_TIMED)
    return {
        name: {"seconds": one["seconds"], "peak_gib": one["peak"] / GIB, "size": one["size"]}
        for name, one in found.items()
    }
