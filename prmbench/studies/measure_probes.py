"""The probes in the miniature: TD against rollouts of a reward model's branches, and the SFT policy's candidate sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prmbench.benchmarks.candidate_sets.run import evaluate_candidate_sets
from prmbench.benchmarks.td_probe.benchmark import TDProbeOptions
from prmbench.benchmarks.td_probe.run import evaluate_td_probe
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT
from prmbench.studies.lab import Lab
from prmbench.studies.settings import RewardModelSettings

N_BRANCHES, ROLLOUTS_EACH = 500, 16
N_PROBED = 300
PROBE_SIZES = [N_BRANCHES, ROLLOUTS_EACH, N_PROBED]


def measure_td(lab: Lab, settings: RewardModelSettings, output: Path) -> dict[str, Any]:
    """Run the TD probe of a reward model on the SFT policy.

    Args:
        lab: The seed's data and models.
        settings: How the reward model is trained.
        output: Folder for the entry.

    Returns:
        ``metrics`` of the entry.
    """
    entry, _ = evaluate_td_probe(
        lab.reward_model(settings),
        lab.load_policy(),
        {lab.split: lab.probed_problems(N_PROBED)},
        name=settings.name,
        source=settings.name,
        output=output,
        options=TDProbeOptions(branches=N_BRANCHES, rollouts_per_branch=ROLLOUTS_EACH),
        params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
        prompt=PROMPT,
        seed=lab.build.seed,
        miniature=True,
    )
    return {"metrics": entry.metrics.model_dump(mode="json")}


def measure_candidate_sets(lab: Lab, _: object, output: Path) -> dict[str, Any]:
    """Measure the candidate sets of the SFT policy (Table 11).

    Args:
        lab: The seed's data and models.
        _: Not used; every measurement takes settings here.
        output: Folder for the entry.

    Returns:
        ``metrics`` of the entry.
    """
    entry, _path = evaluate_candidate_sets(
        lab.load_policy(),
        {lab.split: lab.probed_problems(N_PROBED)},
        name="sft",
        source="sft",
        output=output,
        params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
        prompt=PROMPT,
        seed=lab.build.seed,
        miniature=True,
    )
    return {"metrics": entry.metrics.model_dump(mode="json")}
