"""Small data for training, and the objectives that are trained."""

from __future__ import annotations

import json

import support

from prmbench.reward_models.objectives import OBJECTIVES

TRAINED = tuple(name for name in OBJECTIVES.names() if name != "endo")


def write_outcomes(path, n=24):
    """Right and wrong sums, two of each a prompt."""
    records = []
    for i in range(n):
        for right in (True, False):
            a, b = 3 + i, 5 + 2 * i
            answer = f"Adding {a} to {b} gives {a + b + (0 if right else 7)}." + (" Done." if i % 3 else "")
            messages = [
                {"role": "user", "content": f"What is {a} + {b}?"},
                {"role": "assistant", "content": answer},
            ]
            records.append({"messages": messages, "correct": right})
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def write_chats(path, n=24):
    chats = [
        {
            "messages": [
                {"role": "user", "content": t["problem"]},
                {"role": "assistant", "content": "\n\n".join(t["steps"])},
            ]
        }
        for t in support.make_traces(n)
    ]
    path.write_text("".join(json.dumps(c) + "\n" for c in chats))
    return path
