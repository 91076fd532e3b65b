"""Measure scoring ProcessBench with an implicit model: against the floor, against the usual way, and by size, in one run.

    python scripts/bench_scoring.py [--rm CKPT --reference SFT] [--limit 40] [--tokens 3000] [--threads 2] [--peer SCRIPT]

- Speed, of model and reference on gsm8k in float32, loading excluded. The ways take turns on the same traces, group by group:
  *floor* is the bare trunk of both models plus the output layer's product on response tokens, in the best of several batch shapes;
  *ours* is `prmbench eval` from texts to the entry, first with the reference not yet cached, then cached;
  *usual* is what public scripts do (`peer_tools.py`, or one of them with `--peer`): batches of two in file order, all logits and
  their log-softmax, prefixes tokenized again, thresholds on a grid of 10,000 points.
- The threshold search alone on all of gsm8k: ours, which is exact, against that grid.
- Memory: the peak of what scoring allocates above the weights, by the allocator's own events, against the size of the vocabulary:
  ours against full logits.
- Seconds against the tokens of one trace.

Only ratios count: times are of the machine, and of what else runs on it. Without `--rm`, SmolLM2 and a copy with noise in its
weights are the pair. The last two parts are drawn into docs/.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_tools import f1_at, smollm2_pair
from peer_tools import Scored, grid_threshold, peer_grid, score_usual, score_with_peer

from prmbench.data.traces import Trace, load_traces
from prmbench.studies.step_bench import allocated, random_llama

if TYPE_CHECKING:
    from prmbench.data.tokens import EncodedTrace
    from prmbench.engines.hf.engine import HFEngine

SHAPES = (512, 1_024, 2_048)
VOCABULARIES = (32_000, 64_000, 128_000, 256_000)
ROOT = Path(__file__).resolve().parent.parent


def run_floor(engines: list[HFEngine], encoded: list[EncodedTrace], batch_tokens: int) -> float:
    """Return the seconds of the least that must be computed."""
    import torch

    from prmbench.engines.batching import plan_batches
    from prmbench.engines.hf.head import TILE_ROWS, tile_width

    start = time.perf_counter()
    with torch.inference_mode():
        for batch in plan_batches([len(one) for one in encoded], batch_tokens):
            rows = [torch.from_numpy(encoded[i].ids) for i in batch]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            keep = torch.zeros(padded.shape, dtype=torch.bool)
            for row, i in enumerate(batch):
                keep[row, encoded[i].n_prompt - 1 : len(encoded[i]) - 1] = True
            for engine in engines:
                states = engine.trunk(input_ids=padded, use_cache=False).last_hidden_state[keep]
                for part in states.split(TILE_ROWS):
                    for columns in engine.head.weight.split(tile_width(part.device)):
                        torch.nn.functional.linear(part, columns)
    return time.perf_counter() - start


def speed(options: argparse.Namespace, folders: tuple[Path, Path], work: Path) -> None:
    """Print tokens a second of each way, and the ratios."""
    from prmbench.benchmarks.processbench.run import evaluate_traces
    from prmbench.engines.load import LoadOptions
    from prmbench.reward_models.loading import load_reward_model

    loading: dict[str, Any] = {"reference": folders[1], "tokens": {"step_prefix": "Step {i}: "}}
    model = load_reward_model(folders[0], load_options=LoadOptions("cpu", "float32"), reference_cache=True, **loading)
    engines = [model.model, model.reference.engine()]  # type: ignore[attr-defined]
    tokenizer, whole = model.encoder.tokenizer, [engine.model for engine in engines]
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    traces = load_traces(None, ["gsm8k"], options.limit)
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    n_tokens = sum(len(one) for one in encoded)
    groups = [range(start, min(start + options.group, len(traces))) for start in range(0, len(traces), options.group)]

    run_floor(engines, encoded[:1], 512)  # warm
    few = [encoded[i] for i in groups[0][:5]]
    by_shape = {shape: run_floor(engines, few, shape) for shape in SHAPES}
    shape = min(by_shape, key=lambda one: by_shape[one])

    def evaluate(group: range, name: str) -> None:
        output = work / f"{name}-{group.start}"
        evaluate_traces(model, [traces[i] for i in group], name="x", source="x", output=output, n_resamples=0)

    def usual(group: range) -> None:
        mine = [traces[i] for i in group]
        if options.peer:
            scored.extend(score_with_peer(options.peer, folders, tokenizer, whole, mine, work))
        else:
            scored.extend(score_usual(tokenizer, whole, mine))

    scored: list[Scored] = []
    taken: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))  # wall and processor seconds
    ways = {
        "floor": lambda group: run_floor(engines, [encoded[i] for i in group], shape),
        "ours": lambda group: evaluate(group, "cold"),
        "cached": lambda group: evaluate(group, "cached"),
        "usual": usual,
    }
    for group in groups:
        for name, way in ways.items():
            start = clocks()
            way(group)
            taken[name] += clocks() - start
            print(f"  {name} {group.start}-{group.stop - 1}", file=sys.stderr)
    start = clocks()
    probabilities = [[1 / (1 + float(np.exp(-x))) for x in one.sums] for one in scored]
    (peer_grid(options.peer) if options.peer else grid_threshold)(probabilities, [trace.label for trace in traces])
    taken["usual"] += clocks() - start
    print(
        f"{len(traces)} traces of gsm8k, {n_tokens:,} tokens, float32, {options.threads} threads; floor at {shape} tokens a batch"
    )
    titles = {
        "floor": "floor: trunks and output layers",
        "ours": "ours, texts to entry",
        "cached": "ours, reference cached",
        "usual": f"usual way ({options.peer.name if options.peer else 'in our own words'})",
    }
    for name, title in titles.items():
        wall, processor = taken[name]
        print(f"  {title:38} {wall:8.1f} s  {n_tokens / wall:7.0f} tokens/s   {processor:8.1f} s of processors")
    for title, above, below, goal in (
        ("ours against the floor", "floor", "ours", "goal: at least 0.9"),
        ("ours against the usual way", "usual", "ours", "goal: at least 1.5"),
        ("with the reference cached", "usual", "cached", "goal: at least 2.9"),
        ("the floor against the usual way", "usual", "floor", "what can be had"),
    ):
        wall, processor = taken[above] / taken[below]
        print(f"  {title:38} {wall:8.2f} by the clock, {processor:.2f} by processor time ({goal})")


def clocks() -> np.ndarray:
    """Return wall and processor seconds: where other jobs share the machine, the second is the fairer of the two."""
    return np.array([time.perf_counter(), time.process_time()])


def threshold_search(options: argparse.Namespace) -> None:
    """Time the exact search against the grid, on the step counts and labels of gsm8k with random scores."""
    from prmbench.stats.thresholds import best_threshold, matches

    traces = load_traces(None, ["gsm8k"])
    rng, labels = np.random.default_rng(0), [trace.label for trace in traces]
    scores = [(1 / (1 + np.exp(-rng.normal(size=len(trace.steps))))).tolist() for trace in traces]
    grid = peer_grid(options.peer) if options.peer else grid_threshold
    start = time.perf_counter()
    _, on_grid = grid(scores, labels)
    slow = time.perf_counter() - start
    times = []
    for _ in range(101):
        start = time.perf_counter()
        threshold = best_threshold(matches(scores, labels))
        times.append(time.perf_counter() - start)
    fast = float(np.median(times))
    exact = f1_at(matches(scores, labels), threshold)
    print(
        f"threshold search, {len(traces)} items: grid {slow:.2f} s (F1 {on_grid:.4f}), exact {1e3 * fast:.2f} ms "
        f"(F1 {exact:.4f}), ratio {slow / fast:,.0f} (goal: at least 1,000)"
    )


def memory(tokens: int) -> dict[str, list[float]]:
    """Return the peak above the weights, in MiB, at each vocabulary: ours, and with full logits."""
    import torch

    from prmbench.engines.hf.engine import HFEngine

    peaks: dict[str, list[float]] = {"ours": [], "full logits": []}
    for vocabulary in VOCABULARIES:
        model = random_llama(vocabulary, 64, 2, seed=0)
        engine = HFEngine(model)
        ids = np.random.default_rng(0).integers(vocabulary, size=(4, tokens // 4))

        def full(model: Any = model, ids: np.ndarray = ids) -> None:
            with torch.inference_mode():
                whole = torch.from_numpy(ids)
                model(input_ids=whole, use_cache=False).logits[:, :-1].log_softmax(-1).gather(2, whole[:, 1:, None])

        def ours(engine: HFEngine = engine, ids: np.ndarray = ids) -> None:
            engine.score(list(ids), [1] * len(ids), frozenset({"logprob"}))

        for name, run in (("ours", ours), ("full logits", full)):
            run()
            peaks[name].append(allocated(run) / 2**20)
    print(f"peak above the weights, {tokens:,} tokens, tiny trunk, MiB")
    for name, row in peaks.items():
        shown = "  ".join(f"{v // 1000}k {peak:7.0f}" for v, peak in zip(VOCABULARIES, row, strict=True))
        print(f"  {name:12} {shown}   largest / smallest {max(row) / min(row):.2f}")
    return peaks


def cost(folder: Path, options: argparse.Namespace) -> tuple[list[int], list[float]]:
    """Return numbers of tokens of one trace, and the processor seconds of a thread that encoding and scoring it takes."""
    from prmbench.engines.load import LoadOptions
    from prmbench.reward_models.loading import load_reward_model

    model = load_reward_model(folder, kind="endo", load_options=LoadOptions("cpu", "float32"))
    steps = [step for trace in load_traces(None, ["gsm8k"]) for step in trace.steps]
    longest, lengths, seconds = options.tokens, [], []
    for share in (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1):
        n = max(1, int(longest * share / 100))
        while len(model.encode("Count.", steps[:n])) < longest * share:
            n += 1
        trace = Trace("long", "made", "Count.", tuple(steps[:n]), -1)
        start = clocks()
        encoded = model.encode(trace.problem, trace.steps)
        model.score([encoded])
        seconds.append(float((clocks() - start)[1]) / options.threads)
        lengths.append(len(encoded))
    slope = np.polyfit(np.log(lengths), np.log(seconds), 1)[0]
    print(
        "one trace, one model: " + "  ".join(f"{n:,} tokens {s:.2f} s" for n, s in zip(lengths, seconds, strict=True))
    )
    ratio = seconds[-1] / lengths[-1] / (seconds[0] / lengths[0])
    print(f"  seconds grow as tokens to the power {slope:.2f}; per token the longest costs {ratio:.2f} of the shortest")
    return lengths, seconds


def draw(folder: Path, peaks: dict[str, list[float]], tokens: int, lengths: list[int], seconds: list[float]) -> None:
    """Draw the two plots."""
    from matplotlib.figure import Figure

    from prmbench.benchmarks.parts import to_svg

    memory, cost = (Figure(figsize=(5.6, 3.6), layout="constrained") for _ in range(2))
    axis = memory.subplots()
    for (name, row), marker in zip(peaks.items(), "os", strict=True):
        axis.plot([v / 1000 for v in VOCABULARIES], row, marker=marker, label=name)
    axis.set(xlabel="vocabulary, thousands", ylabel=f"peak above weights, MiB ({tokens:,} tokens)", ylim=(0, None))
    axis.legend()
    axis = cost.subplots()
    axis.plot(lengths, seconds, "o", label="measured")
    slope = float(np.dot(lengths, seconds) / np.dot(lengths, lengths))
    axis.plot([0, lengths[-1]], [0, slope * lengths[-1]], "--", color="0.5", label=f"{1 / slope:,.0f} tokens/s")
    axis.set(xlabel="tokens of one trace", ylabel="processor seconds of a thread", xlim=(0, None), ylim=(0, None))
    axis.legend()
    for name, figure, title in (
        ("speed-memory.svg", memory, "Peak memory of scoring against the vocabulary"),
        ("speed-tokens.svg", cost, "Seconds to score one trace against its tokens"),
    ):
        (folder / name).write_text(to_svg(figure, title))
        print(f"plot: {folder / name}")


def main() -> None:
    """Print the whole table and write the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rm", type=Path, help="an implicit reward model's folder")
    parser.add_argument("--reference", type=Path, help="its reference's")
    parser.add_argument("--limit", type=int, default=40, help="traces of the speed table")
    parser.add_argument(
        "--group", type=int, default=10, help="traces that the ways take in turn; few cost ours padding"
    )
    parser.add_argument("--tokens", type=int, default=3_000, help="longest trace of the plot of cost")
    parser.add_argument("--memory-tokens", type=int, default=1_024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", type=Path, help="a public script to run as the usual way")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs", help="folder of the plots")
    options = parser.parse_args()

    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    os.environ["PRMBENCH_CACHE_GIB"] = "1"
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = work  # never the user's own cache
        folders = smollm2_pair(options.rm, options.reference, Path(work))
        speed(options, folders, Path(work))
        threshold_search(options)
        peaks = memory(options.memory_tokens)
        lengths, seconds = cost(folders[1], options)
    draw(options.plots, peaks, options.memory_tokens, lengths, seconds)


if __name__ == "__main__":
    main()
