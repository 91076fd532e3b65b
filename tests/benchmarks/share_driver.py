"""Run every benchmark in this process, alone or as one of several: ``share_driver.py MODEL OTHER FOLDER``.

Run by tests/benchmarks/test_share.py, once alone and once under ``accelerate launch``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prmbench.api import evaluate
from prmbench.engines.load import LoadOptions
from prmbench.engines.processes import current_share
from prmbench.engines.sampling import SamplingParams


def main(model: str, other: str, folder: Path) -> None:
    share = current_share(cpu=True)
    data = folder.parent
    load = {"load_options": LoadOptions(device="cpu")}
    of_rm = {"reference": model, "objective": "implicit_prm", "reference_cache": False, **load}
    of_policy = {"policy": model, "policy_loading": load, "subsets": [str(data / "problems.jsonl")], "prompt": "number"}
    short = SamplingParams(max_new_tokens=10)
    asked = {
        "processbench": {"rm": other, "data": data / "made.jsonl", "loading": of_rm},
        "best-of-n": {"rm": other, "rollouts": [data / "completions.jsonl"], "loading": of_rm},
        "calibration": {"rm": other, "rollouts": [data / "completions.jsonl"], "loading": of_rm},
        "policy": {**of_policy, "params": short, "n": 3},
        "candidates": {**of_policy, "params": short, "n": 2},
        "td-probe": {"rm": other, "loading": of_rm, **of_policy, "params": short, "branches": 24, "top": 3},
    }
    for name, one in asked.items():
        budget = {"batch_tokens": 200}  # several batches, so that each process has some
        found = evaluate(
            one.pop("rm", None), benchmark=name, output=folder / name, n_resamples=5, share=share, **budget, **one
        )
        assert (found is not None) == share.main


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
