"""Completions that share a prompt against completions that do not.

One problem sampled 64 times, against 64 problems of the same size sampled once: prompts and responses equally long, same
batch, same number of tokens written. A prompt that is shared runs through the model once.

    python scripts/bench_shared_prompt.py [--model FOLDER] [--completions 64] [--tokens 128] [--repeats 3] [--engine hf]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from prmbench.engines.base import load_engine
from prmbench.engines.generate import Request
from prmbench.engines.loading import LoadOptions
from prmbench.engines.sampling import SamplingParams


def random_model(folder: Path) -> Path:
    """A checkpoint folder with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1_536, "num_hidden_layers": 8}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=8, num_key_value_heads=4)).save_pretrained(folder)
    return folder


def main() -> None:
    """Alternate the two and print the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: a random Llama of 8 layers, width 512")
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="of each prompt, and of each response")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="hf")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.model) if options.model else random_model(Path(scratch))
        engine = load_engine(options.engine, folder, LoadOptions(), str(folder))
    rng = np.random.default_rng(0)
    params = SamplingParams(max_new_tokens=options.tokens)
    seconds: dict[str, list[float]] = {"shared": [], "separate": []}
    for repeat in range(options.repeats + 1):
        for way, times in seconds.items():
            size = (1 if way == "shared" else options.completions, options.tokens)
            prompts = rng.integers(
                10, engine.vocabulary // 2, size=size
            )  # new ones, so that no cache of an earlier round helps
            requests = [
                Request(prompts[i % len(prompts)], f"p{i % len(prompts)}", i) for i in range(options.completions)
            ]
            start = time.perf_counter()
            found = engine.generate(requests, frozenset(), params, seed=repeat)
            if repeat:  # the first round warms up
                times.append(time.perf_counter() - start)
            if {len(one.ids) for one in found} != {options.tokens}:
                raise SystemExit("responses are not of equal length")
    middle = {way: sorted(times)[len(times) // 2] for way, times in seconds.items()}
    print(
        f"{options.completions} completions, prompts and responses of {options.tokens} tokens, engine {options.engine}"
    )
    for way, value in middle.items():
        print(f"  {way:8} {value:7.2f} s   {options.completions * options.tokens / value:7.0f} tokens/s written")
    print(f"  ratio    {middle['shared'] / middle['separate']:7.2f}")


if __name__ == "__main__":
    main()
