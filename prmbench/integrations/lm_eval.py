"""What the lm-eval tasks in ``tasks/`` call: data, our verifier and our figures. It imports neither torch nor lm-eval."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prmbench.data.critic_prompt import critic_prompt
from prmbench.data.problem_sets import find_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.traces import load_traces
from prmbench.data.verdicts import Verdict
from prmbench.errors import ArgumentError
from prmbench.stats.repeats import majority
from prmbench.stats.thresholds import f1_and_accuracies
from prmbench.stats.votes import vote
from prmbench.verify import Verifier
from prmbench.verify.classes import answer_classes
from prmbench.verify.extract import parse_verdict

if TYPE_CHECKING:
    from datasets import Dataset

MINIATURE = "miniature"
N_MINIATURE = 100

Doc = dict[str, Any]
Hit = tuple[int, bool]
"""Label of a trace, and whether the prediction is that label."""


def problems(set: str, problems: str | None = None, prompt: str = "boxed", **_: Any) -> dict[str, Dataset]:
    """Make the documents of a policy task. lm-eval passes the task's metadata.

    Args:
        set: Name of a problem set, read from the local folder or the Hub; ``miniature`` is made here.
        problems: File of ``{id, problem, answer}`` records to use instead; None uses the set.
        prompt: Name of the prompt template.
        **_: Other metadata, which is not used.

    Returns:
        The documents, under ``test``.

    Raises:
        UserError: The problems cannot be found or read (`prmbench.data.problem_sets.find_problems`).
        ArgumentError: The prompt has a system message, which lm-eval takes elsewhere.
    """
    from datasets import Dataset

    template = find_prompt(prompt)
    if template.system is not None:
        problem = "has a system message; pass that as lm-eval's own system_instruction and use another template"
        raise ArgumentError("prompt", prompt, problem)
    if problems is None and set == MINIATURE:
        from prmbench.miniature.build import make_problems
        from prmbench.miniature.world import World

        records = make_problems(World(), "test", N_MINIATURE, seed=0)
    else:
        (found,) = find_problems([problems or set]).values()
        records = [one.__dict__ for one in found]
    docs = [{**r, "prompt": template.render(r["problem"]), "style": template.style} for r in records]
    return {"test": Dataset.from_list(docs)}


@functools.cache
def _verifier() -> Verifier:
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


def score_completions(doc: Doc, results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Judge all completions of one problem with our verifier. lm-eval does not say which of them were cut.

    Args:
        doc: The problem's document.
        results: One list with the n completions.

    Returns:
        ``avg@n``, ``pass@n`` and ``maj@n``, each between 0 and 1.
    """
    (completions,) = results
    golds = [doc["answer"]] * len(completions)
    verdicts = _verifier().verify(list(completions), golds, style=doc["style"])
    correct = [v == Verdict.CORRECT for v in verdicts]
    n = len(completions)
    return {
        f"avg@{n}": sum(correct) / n,
        f"pass@{n}": float(any(correct)),
        f"maj@{n}": majority(answer_classes(completions, correct, doc["style"], _verifier()), correct),
    }


def traces(subset: str, traces: str | None = None, **_: Any) -> dict[str, Dataset]:
    """Make the documents of a critic task. lm-eval passes the task's metadata.

    Args:
        subset: Name of a ProcessBench subset.
        traces: File of such records to use instead; None uses the subset.
        **_: Other metadata, which is not used.

    Returns:
        The documents, under ``test``.
    """
    from datasets import Dataset

    found = load_traces(traces) if traces else load_traces(None, [subset])
    docs = [{"id": t.id, "prompt": critic_prompt(t.problem, t.steps), "label": t.label} for t in found]
    return {"test": Dataset.from_list(docs)}


def score_verdicts(doc: Doc, results: Sequence[str | Sequence[str]]) -> dict[str, Any]:
    """Compare a critic's verdict on one trace with the label.

    Args:
        doc: The trace's document.
        results: One completion, or one list of several, whose majority counts.

    Returns:
        ``f1``, ``acc_error`` and ``acc_correct``: the label, and whether the verdict is that label; a verdict that cannot be read
        is wrong. ``parsed``: share of completions whose verdict can be read.
    """
    (texts,) = results
    verdicts = [parse_verdict(text) for text in ([texts] if isinstance(texts, str) else texts)]
    hit = (doc["label"], vote(verdicts) == doc["label"])
    parsed = sum(v is not None for v in verdicts) / len(verdicts)
    return {"f1": hit, "acc_error": hit, "acc_correct": hit, "parsed": parsed}


def acc_error(hits: Sequence[Hit]) -> float:
    """Compute the share of traces with an error whose first wrong step was named.

    Args:
        hits: All traces of the task.

    Returns:
        Between 0 and 1; NaN without such a trace.
    """
    return _figures(hits)["acc_error"]


def acc_correct(hits: Sequence[Hit]) -> float:
    """Compute the share of traces without an error of which -1 was said.

    Args:
        hits: All traces of the task.

    Returns:
        Between 0 and 1; NaN without such a trace.
    """
    return _figures(hits)["acc_correct"]


def f1(hits: Sequence[Hit]) -> float:
    """Compute ProcessBench's F1, the harmonic mean of `acc_error` and `acc_correct`.

    Args:
        hits: All traces of the task.

    Returns:
        Between 0 and 1.
    """
    return _figures(hits)["f1"]


def _figures(hits: Sequence[Hit]) -> dict[str, float]:
    labels, right = np.array(hits, dtype=np.int64).reshape(-1, 2).T
    return f1_and_accuracies(right == 1, labels >= 0)
