"""Compare scoring in half precision with scoring in float32: what it does to an implicit model's log-ratios and F1.

    python scripts/bench_numerics.py [--rm CKPT --reference SFT] [--items items.jsonl] [--limit 20] [--dtype bfloat16] [--threads 2]

A sample of traces is scored in both types, from the same float32 weights. Printed are

- the error of token log-ratios: mean, standard deviation, 99th percentile, largest;
- the error of prefix sums, by length;
- the error of step sums, beside the spread of the step sums themselves;
- what this changes: predictions, and F1 under the process and prefix protocols.

With `--items`, noise of stated sizes is added to the float32 items of a whole subset. That says how much F1 moves for how much
noise, which is where the warning of `prmbench eval` comes from. Without `--rm`, SmolLM2 and a copy with noise in its weights are
the pair.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_tools import f1_at, smollm2_pair

from prmbench.stats.thresholds import best_threshold, crossfit_thresholds, matches

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
DRAWS = 20


def token_ratios(folders: tuple[Path, Path], dtype: str, limit: int, subset: str) -> tuple[list, list, list]:
    """Return token log-ratios in one type, the encoded traces, and their labels."""
    from prmbench.data.traces import load_traces
    from prmbench.engines.load import LoadOptions
    from prmbench.reward_models.loading import load_reward_model
    from prmbench.studies.measure_reward_models import token_values

    options = LoadOptions(dtype=dtype)
    model = load_reward_model(folders[0], reference=folders[1], load_options=options, reference_cache=False)
    traces = load_traces(None, [subset], limit)
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    return token_values(model, encoded, 2_048), encoded, [trace.label for trace in traces]


def f1(scores: list[np.ndarray], labels: list[int], ids: list[str]) -> tuple[float, float]:
    """Return F1 with crossfit and with oracle thresholds."""
    found = matches(scores, labels)
    return f1_at(found, crossfit_thresholds(found, ids)[0]), f1_at(found, best_threshold(found))


def spread(values: np.ndarray) -> float:
    """Return the standard deviation of a normal distribution with these quartiles, so that a few far values do not count."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float((high - low) / 1.349)


def compare(folders: tuple[Path, Path], options: argparse.Namespace) -> None:
    """Compare both types on the sample."""
    exact, encoded, labels = token_ratios(folders, "float32", options.limit, options.subset)
    rough, _, _ = token_ratios(folders, options.dtype, options.limit, options.subset)
    error = np.concatenate([a - b for a, b in zip(rough, exact, strict=True)])
    whole = np.concatenate(exact)
    print(f"{len(exact)} traces of {options.subset}, {len(whole):,} response tokens, {options.dtype} against float32")
    print(
        f"  token log-ratio: spread {spread(whole):.4f}; error mean {error.mean():+.5f}, sd {error.std():.4f}, "
        f"p99 of |error| {np.quantile(abs(error), 0.99):.4f}, largest {abs(error).max():.3f}"
    )
    for t in (16, 32, 64, 128, 256):
        sums = [(a[:t] - b[:t]).sum() for a, b in zip(rough, exact, strict=True) if len(a) >= t]
        if len(sums) > 5:
            print(
                f"  prefix sum of {t:3} tokens: error sd {np.std(sums):.3f}, {np.std(sums) / np.sqrt(t):.4f} x sqrt(tokens)"
            )
    steps = [[one.step_sums(v) for one, v in zip(encoded, values, strict=True)] for values in (exact, rough)]
    off = np.concatenate([b - a for a, b in zip(*steps, strict=True)])
    sums = np.concatenate(steps[0])
    print(
        f"  step sums: spread {spread(sums):.3f}, error sd {off.std():.3f}, largest {abs(off).max():.3f}: "
        f"noise is {off.std() / spread(sums):.2f} of the spread"
    )
    ids = [str(i) for i in range(len(labels))]
    for name, protocol in (("process", lambda rows: rows), ("prefix", lambda rows: [np.cumsum(row) for row in rows])):
        scores = [protocol(rows) for rows in steps]
        threshold = best_threshold(matches(scores[0], labels))
        first = [
            [int(np.argmax(row < threshold)) if (row < threshold).any() else -1 for row in rows] for rows in scores
        ]
        changed = np.mean([a != b for a, b in zip(*first, strict=True)])
        (c32, o32), (c16, o16) = (f1(rows, labels, ids) for rows in scores)
        print(
            f"  {name:8} predictions changed {changed:.0%}; F1 crossfit {100 * c32:.1f} -> {100 * c16:.1f}, "
            f"oracle {100 * o32:.1f} -> {100 * o16:.1f} ({len(labels)} traces: a point is noise)"
        )


def with_noise(path: Path) -> None:
    """Print F1 of float32 items with normal noise added to each token, by the noise's size beside the spread of the step sums."""
    from prmbench.benchmarks.registry import find_benchmark

    items = find_benchmark("processbench").read_items(path)
    labels, ids = [item.label for item in items], [f"{item.subset}/{item.id}" for item in items]
    rows = [item.sums for item in items if item.sums is not None]
    counts = [item.n_tokens for item in items]
    width, typical = spread(np.concatenate(rows)), float(np.median(np.concatenate(counts)))
    print(f"{path}: {len(items)} traces, spread of step sums {width:.3f}, {typical:.0f} tokens a step")
    rng = np.random.default_rng(0)
    for name in ("process", "prefix"):
        plain = rows if name == "process" else [np.cumsum(row) for row in rows]
        before = f1(plain, labels, ids)[0]
        for share in SHARES:
            sigma = share * width / np.sqrt(typical)
            moved = []
            for _ in range(DRAWS):
                noisy = [
                    row + sigma * np.sqrt(n) * rng.normal(size=len(n)) for row, n in zip(rows, counts, strict=True)
                ]
                moved.append(f1(noisy if name == "process" else [np.cumsum(r) for r in noisy], labels, ids)[0] - before)
            print(
                f"  {name:8} noise {share:4.2f} of the spread ({sigma:.4f} a token): crossfit F1 {100 * before:.1f}, changes by "
                f"{100 * np.mean(moved):+.1f} on average, {100 * np.sqrt(np.mean(np.square(moved))):.1f} root mean square"
            )


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rm", type=Path, help="an implicit reward model's folder")
    parser.add_argument("--reference", type=Path, help="its reference's")
    parser.add_argument("--items", type=Path, help="float32 items of a whole subset (items.jsonl of a run)")
    parser.add_argument("--subset", default="gsm8k")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        compare(smollm2_pair(options.rm, options.reference, Path(work)), options)
    if options.items:
        with_noise(options.items)


if __name__ == "__main__":
    main()
