"""Small data for training, and the objectives that are trained."""

from __future__ import annotations

import json

import support
import torch
from transformers import AutoModelForCausalLM

from prmbench.data.tokens import TraceEncoder
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.data.chats import encode_chat, load_chats

TRAINED = tuple(name for name in OBJECTIVES.names() if OBJECTIVES.find(name).kind in ("implicit", "q_rm"))


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


def mean_loss(folder, recipe):
    """Plain mean negative log-likelihood of the response tokens of the held-out chats, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    encoder = TraceEncoder(support.wrap(support.byte_level()))
    total, count = 0.0, 0
    for chat in load_chats(recipe.data)[-recipe.held_out :]:
        ids, p = encode_chat(encoder, chat)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor(ids)[None]).logits[0].double(), -1)
        total -= sum(float(logprobs[t - 1, ids[t]]) for t in range(p, len(ids)))
        count += len(ids) - p
    return total / count
