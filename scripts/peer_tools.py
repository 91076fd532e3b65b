"""The usual way of scoring ProcessBench with an implicit model, to measure against: a public script, or the same in our own words.

The usual way

- renders problem and solution through the chat template, with `Step i: ` before each step;
- finds where a step ends by rendering and tokenizing every prefix again;
- runs batches of two in file order, and takes the log-softmax of all logits;
- sums log-ratios to each step's end, and tries thresholds on a grid.

The released scripts of IPVRM (`process_bench/process_eval.py`) and Implicit PRM (`eval/processbench.py`) do so. Either can be
passed by its path: it is run whole, with models that are already loaded. `compare_peer.py` and `bench_scoring.py` use this.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from prmbench.data.traces import Trace

BATCH = 2


@dataclass(frozen=True)
class Scored:
    """What a script makes of one trace.

    Attributes:
        ids: All token ids.
        ends: Position of the last token that each step's prefix sum covers.
        sums: Those sums of log-ratios, before beta.
    """

    ids: list[int]
    ends: list[int]
    sums: list[float]


def step_texts(trace: Trace) -> list[str]:
    """Return the steps with the prefix that the public scripts put before each."""
    return [f"Step {i}: {step}" for i, step in enumerate(trace.steps, start=1)]


def encode_usual(tokenizer: Any, trace: Trace) -> tuple[list[int], list[int]]:
    """Return the conversation's token ids, and for no step, one step, ... the position of the last token that is summed."""

    def rendered(n: int) -> str:
        answer = "\n\n".join(step_texts(trace)[:n])
        chat = [{"role": "user", "content": trace.problem}, {"role": "assistant", "content": answer}]
        return tokenizer.apply_chat_template(chat, tokenize=False)

    whole = len(trace.steps)
    ends = []
    for n in range(whole + 1):
        text = rendered(n).strip() + ("\n\n" if 0 < n < whole else "")
        # The released scripts step back two from the length into log-probs that are shifted by one: position length - 1.
        ends.append(len(tokenizer.encode(text, add_special_tokens=False)) - 1)
    return tokenizer.encode(rendered(whole), add_special_tokens=False), ends


def score_usual(tokenizer: Any, models: Sequence[Any], traces: Sequence[Trace]) -> list[Scored]:
    """Compute prefix sums of log-ratios. The models are the model and its reference, whole."""
    import torch

    encoded = [encode_usual(tokenizer, trace) for trace in traces]
    out = []
    for start in range(0, len(traces), BATCH):
        batch = encoded[start : start + BATCH]
        width = max(len(ids) for ids, _ in batch)
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
        found = []
        for model in models:
            with torch.no_grad():
                logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1]
            found.append(logits.log_softmax(-1).gather(2, padded[:, 1:, None])[..., 0])
        for (ids, ends), ratio in zip(batch, found[0] - found[1], strict=True):
            running = ratio[ends[0] - 1 :].cumsum(0)
            last = len(ids) - 1
            out.append(Scored(ids, ends[1:], [float(running[min(end, last) - ends[0]]) for end in ends[1:]]))
    return out


def grid_threshold(scores: Sequence[Sequence[float]], labels: Sequence[int], n: int = 10_000) -> tuple[float, float]:
    """Return the best of `n` thresholds from 0 to 1, tried one after the other in Python, and its F1."""
    best = (0.0, -1.0)
    for k in range(n):
        threshold = k / (n - 1)
        hits = {True: 0, False: 0}
        for row, label in zip(scores, labels, strict=True):
            predicted = next((i for i, score in enumerate(row) if score < threshold), -1)
            hits[label < 0] += predicted == label
        n_correct = sum(label < 0 for label in labels)
        a, b = hits[True] / n_correct, hits[False] / (len(labels) - n_correct)
        f1 = 2 * a * b / (a + b) if a + b else 0.0
        if f1 > best[1]:
            best = (threshold, f1)
    return best


def score_with_peer(
    script: Path, folders: tuple[Path, Path], tokenizer: Any, models: Sequence[Any], traces: Sequence[Trace], work: Path
) -> list[Scored]:
    """Run a public script on traces, as its command line does, with coefficient 1, and return what it wrote.

    Args:
        script: The script.
        folders: Folders of the model and of its reference, as the script is told.
        tokenizer: What the script gets where it loads a tokenizer.
        models: What the script gets where it loads the model and its reference.
        traces: The traces.
        work: A folder to write in.
    """
    fields = ("id", "generator", "problem", "label")
    records = [{name: getattr(trace, name) for name in fields} | {"steps": list(trace.steps)} for trace in traces]
    source, written = work / "traces.json", work / "rewards.json"
    source.write_text(json.dumps(records), encoding="utf-8")
    arguments = {"mode": "inference", "input_file": source, "output_file": written, "batch_size": BATCH, "coef": 1.0}
    arguments |= {"model_path": folders[0], "ref_model_path": folders[1], "tokenizer_path": folders[0]}
    argv = [str(script), *(part for name, value in arguments.items() for part in (f"--{name}", str(value)))]
    with _given(dict(zip(map(str, folders), models, strict=True)), tokenizer), mock.patch.object(sys, "argv", argv):
        namespace = runpy.run_path(str(script))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            namespace["main"]()
    rewards = json.loads(written.read_text(encoding="utf-8"))
    out = []
    for trace, record in zip(traces, rewards, strict=True):
        ids, ends = encode_usual(tokenizer, trace)  # where its ends are: both scripts place them alike
        out.append(Scored(ids, ends[1:], record["reward"]))
    return out


def peer_grid(script: Path) -> Callable[[Sequence[Sequence[float]], Sequence[int]], tuple[float, float]]:
    """Return the threshold search of a public script, with 10,000 points, on step scores as they are."""
    namespace = runpy.run_path(str(script))
    if "find_threshold_base" in namespace:
        return lambda scores, labels: namespace["find_threshold_base"](scores, [{"label": x} for x in labels], 10_000)
    import numpy as np

    def search(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> tuple[float, float]:
        logits = [[float(np.log(p / (1 - p))) for p in row] for row in scores]
        data = [{"label": label, "reward": row} for label, row in zip(labels, logits, strict=True)]
        return namespace["find_threshold_sigmoid"](data, 10_000)

    return search


@contextlib.contextmanager
def _given(models: dict[str, Any], tokenizer: Any) -> Iterator[None]:
    """Give loaded models where a script loads them, and ids as a list of lists where transformers 5 would give a dict."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    render = tokenizer.apply_chat_template

    def apply(chat: Any, **options: Any) -> Any:
        return render(chat, **({"return_dict": False} if options.get("tokenize", True) else {}), **options)

    with (
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", lambda path, **_: models[str(path)]),
        mock.patch.object(AutoTokenizer, "from_pretrained", return_value=tokenizer),
        mock.patch.object(tokenizer, "apply_chat_template", apply),
    ):
        yield
