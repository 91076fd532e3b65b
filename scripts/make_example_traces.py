"""Write sixty synthetic traces (long sums, step by step, half of them with a wrong step) as a data file to try things on."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path


def make_trace(rng: random.Random, number: int) -> dict[str, object]:
    """One trace in ProcessBench's fields; the label is exact because the error was put there."""
    terms = [rng.randint(2, 60) for _ in range(rng.randint(4, 8))]
    label = rng.randrange(len(terms) - 1) if number % 2 else -1
    total, steps = terms[0], []
    for i, term in enumerate(terms[1:]):
        result = total + term + (rng.choice([-10, -2, -1, 1, 2, 10]) if i == label else 0)
        steps.append(f"Next we add {term} to {total}: {total} + {term} = {result}.")
        total = result
    steps[-1] += f" The answer is \\boxed{{{total}}}."
    return {
        "id": f"sum-{number}",
        "generator": "synthetic",
        "problem": f"What is {' + '.join(map(str, terms))}?",
        "steps": steps,
        "final_answer_correct": label < 0,
        "label": label,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    rng = random.Random(0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(make_trace(rng, i)) + "\n" for i in range(60)), encoding="utf-8")
