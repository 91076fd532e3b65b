"""Measure peak memory against the length of a sequence, on a CPU: scoring, and a step of each training, beside full logits.

    python scripts/bench_length.py [--lengths 1024,2048,...] [--vocabulary 50000] [--ways score,rm,...] [--most 4] [--threads 1]

The backbone is tiny, so that what grows with length and vocabulary is not hidden by its weights. Each number is the most bytes
that the allocator held at once during the call, above the weights, in MiB. Behind it is how many times that of `full` it is, and
how many times that of the length before. What is linear in the length at most doubles where the length does.

- `score`: log-probs of all tokens, as `prmbench eval` computes them.
- `rm`: forward and backward pass of log-probs, as a reward model is trained on them.
- `rl`: the same, with pi_old's entropy and the candidates of DistRL found before it.
- `sft`: forward and backward pass of TRL's loss, in tiles as `prmbench train sft` has them.
- `full`: forward and backward pass of log-probs from all logits at once, the naive way. It is left out where the logits alone would
  take a third of `--most` GiB.

Then the same is measured of attention alone: the trunk's forward pass with `eager`, with `sdpa`, and with `sdpa` where four
sequences share the row (`--padding-free`), whose mask has a place for every pair of tokens.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from prmbench.studies.step_bench import allocated, random_llama

WIDTH, LAYERS, JOINED = 64, 1, 4


def peak(run: Callable[[], Any]) -> float:
    """Return the most bytes that a call holds at once. What was measured before is freed first, or its end would count."""
    gc.collect()
    return float(allocated(run))


def where_of(length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Make arguments of a model in training: one sequence, all of it response."""
    ids = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    columns = torch.arange(1, length)
    return {"input_ids": ids, "rows": torch.zeros_like(columns), "columns": columns}


def score(length: int, vocabulary: int) -> Callable[[], Any]:
    """Make the call of `score`."""
    from prmbench.engines.hf.engine import HFEngine

    engine = HFEngine(random_llama(vocabulary, WIDTH, LAYERS, 0))
    ids = where_of(length, vocabulary)["input_ids"][0].numpy()
    return lambda: engine.score([ids], [1], frozenset({"logprob"}))


def rm(length: int, vocabulary: int, *, picks: bool = False) -> Callable[[], Any]:
    """Make the call of `rm`; with `picks` that of `rl`."""
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rl.candidates import candidate_finder
    from prmbench.training.rl.methods import Algorithm

    model = random_llama(vocabulary, WIDTH, LAYERS, 0).train()
    give_logprobs(model, "m")
    where = where_of(length, vocabulary)

    def step() -> None:
        found = {}
        if picks:
            with torch.no_grad():
                old = model(**where, find=candidate_finder(Algorithm(method="distrl")))
            found = {name: old[name] for name in ("where", "tokens")}
        values = model(**where, **found)
        sum(values[name].sum() for name in values).backward()

    return step


def sft(length: int, vocabulary: int) -> Callable[[], Any]:
    """Make the call of `sft`."""
    from trl.trainer.utils import add_fused_lm_head

    from prmbench.training.sft.run import bound_tiles

    bound_tiles()
    model = random_llama(vocabulary, WIDTH, LAYERS, 0).train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids = where_of(length, vocabulary)["input_ids"]
    return lambda: (-model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.sum()).backward()


def full(length: int, vocabulary: int) -> Callable[[], Any]:
    """Make the call of `full`."""
    model = random_llama(vocabulary, WIDTH, LAYERS, 0).train()
    ids = where_of(length, vocabulary)["input_ids"]

    def step() -> None:
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(dim=-1)
        logprobs.gather(1, ids[0, 1:, None]).sum().backward()

    return step


WAYS = {"score": score, "rm": rm, "rl": lambda *sizes: rm(*sizes, picks=True), "sft": sft, "full": full}


def trunk(length: int, attention: str, joined: int = 1) -> Callable[[], Any]:
    """Make a forward pass of the trunk alone, over sequences of one length together that may share the row."""
    from prmbench.engines.hf.states import read_states, run_without_padding

    model = random_llama(128, WIDTH, LAYERS, 0)
    model.set_attn_implementation(attention)
    if joined > 1:
        run_without_padding(model.model, "m")
    part = length // joined
    ids = torch.randint(128, (joined, part), generator=torch.Generator().manual_seed(0))
    rows, columns = torch.arange(joined).repeat_interleave(part), torch.arange(part).repeat(joined)

    def run() -> None:
        with torch.inference_mode():
            read_states(model.model, ids, rows, columns)

    return run


ATTENTION = {
    "eager": lambda length: trunk(length, "eager"),
    "sdpa": lambda length: trunk(length, "sdpa"),
    f"{JOINED} in a row": lambda length: trunk(length, "sdpa", JOINED),
}


def print_row(
    length: int, names: Iterable[str], found: dict[str, float], before: dict[str, float], seconds: float
) -> None:
    """Print one row of a table: MiB, times `full`, times the row before; nothing where it was left out."""
    cells = []
    for name in names:
        if (held := found.get(name)) is None:
            cells.append(" " * 23)
            continue
        of_full = f"{held / found['full']:6.3f}x" if "full" in found and name != "full" else " " * 7
        grown = f"{held / before[name]:5.2f}" if name in before else " " * 5
        cells.append(f"{held / 2**20:9,.0f} {of_full} {grown}")
    print(f"{length:>7,} | " + " | ".join(cells) + f" | {seconds:4.0f} s", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384,32768")
    parser.add_argument("--vocabulary", type=int, default=50_000)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--most", type=float, default=4.0, help="GiB that `full` and `eager` may take")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = [int(one) for one in options.lengths.split(",")]
    ways = options.ways.split(",")
    heading = " | ".join(f"{name:>9} {'x full':>7} {'grown':>5}" for name in ways)
    print(
        f"MiB above the weights, vocabulary {options.vocabulary:,}, width {WIDTH}, {LAYERS} layer\n tokens | {heading}"
    )
    before: dict[str, float] = {}
    for length in lengths:
        start = time.perf_counter()
        fits = length * options.vocabulary * 4 * 3 <= options.most * 2**30
        found = {name: peak(WAYS[name](length, options.vocabulary)) for name in ways if name != "full" or fits}
        print_row(length, ways, found, before, time.perf_counter() - start)
        before = found
    heading = " | ".join(f"{name:>9} {'':7} grown" for name in ATTENTION)
    print(f"\nMiB of the trunk's forward pass\n tokens | {heading}")
    before = {}
    for length in lengths:
        start = time.perf_counter()
        heads = {"eager": 8, "sdpa": 0}
        found = {
            name: peak(make(length))
            for name, make in ATTENTION.items()
            if length**2 * 4 * 3 * heads.get(name, 1) <= options.most * 2**30
        }
        print_row(length, ATTENTION, found, before, time.perf_counter() - start)
        before = found


if __name__ == "__main__":
    main()
