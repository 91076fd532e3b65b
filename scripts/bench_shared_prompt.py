"""Measure sampling: completions that share a prompt against completions that do not, and ours against transformers' `generate`.

    python scripts/bench_shared_prompt.py [--model FOLDER] [--completions 64] [--tokens 128] [--repeats 3] [--engine hf]

- One problem sampled 64 times, against 64 problems sampled once: prompts and responses are equally long, in the same batch, and the
  same number of tokens is written. A shared prompt runs through the model once, and its keys and values are read together.
- 16 problems of different lengths, each sampled 4 times: ours against transformers, for the hf engine.

Without `--model`, SmolLM2 samples.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bench_tools import smollm2

from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.sampling import Request, SamplingParams

if TYPE_CHECKING:
    from prmbench.engines.hf.engine import HFEngine
    from prmbench.engines.types import Engine


def sample(engine: Engine, prompts: Sequence[np.ndarray], completions: int, tokens: int, seed: int) -> None:
    """Sample completions of the prompts in turn, all of the same length."""
    order = np.sort(np.arange(completions) % len(prompts))
    requests = [Request(prompts[i], f"p{i}", n) for n, i in enumerate(order)]
    found = engine.generate(requests, frozenset(), SamplingParams(max_new_tokens=tokens), seed)
    if {len(one.ids) for one in found} != {tokens}:
        raise SystemExit("responses are not of equal length")


def sample_by_transformers(engine: HFEngine, prompts: Sequence[np.ndarray], completions: int, tokens: int) -> None:
    """Do the same with `generate` of transformers, with prompts padded on the left."""
    import torch

    width = max(map(len, prompts))
    ids, mask = torch.zeros((2, len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    each = completions // len(prompts)
    engine.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        num_return_sequences=each,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
    )


def main() -> None:
    """Take the ways in turn and print the ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: SmolLM2")
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="of each prompt, and of each response")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="hf")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.model) if options.model else smollm2(Path(scratch))
        engine = load_engine(options.engine, folder, LoadOptions(), str(folder))
    rng = np.random.default_rng(0)
    n, tokens = options.completions, options.tokens

    def made(lengths: Sequence[int]) -> list[np.ndarray]:
        return [rng.integers(10, engine.vocabulary // 2, size=length) for length in lengths]

    ways: dict[str, Callable[[int], None]] = {
        "one problem": lambda seed: sample(engine, made([tokens]), n, tokens, seed),
        "separate problems": lambda seed: sample(engine, made([tokens] * n), n, tokens, seed),
    }
    if options.engine == "hf":
        lengths = np.linspace(tokens // 2, 3 * tokens // 2, n // 4).astype(int).tolist()
        ways["of several lengths, 4 each"] = lambda seed: sample(engine, made(lengths), n, tokens, seed)
        ways["the same by transformers"] = lambda seed: sample_by_transformers(engine, made(lengths), n, tokens)  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(options.repeats + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run(repeat)
            if repeat:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
    middle = {way: float(np.median(times)) for way, times in seconds.items()}
    print(
        f"{n} completions, prompts and responses of {tokens} tokens, engine {options.engine}, {options.repeats} rounds"
    )
    for way, value in middle.items():
        spread = f"{min(seconds[way]):.1f} to {max(seconds[way]):.1f}"
        print(f"  {way:28} {value:7.1f} s ({spread})   {n * tokens / value:7.0f} tokens/s written")
    ratios = [a / b for a, b in zip(seconds["one problem"], seconds["separate problems"], strict=True)]
    print(
        f"  one problem / separate       {np.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f}; goal: at most 0.75)"
    )
    if options.engine == "hf":
        faster = middle["the same by transformers"] / middle["of several lengths, 4 each"]
        print(f"  transformers / ours          {faster:7.2f}")


if __name__ == "__main__":
    main()
