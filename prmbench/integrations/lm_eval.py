"""What the lm-eval tasks in ``tasks/`` call: data, our verifier, our figures. Imports neither torch nor lm-eval."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prmbench.data.critic_prompt import critic_prompt
from prmbench.data.problem_sets import find_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.traces import load_traces
from prmbench.data.verdicts import Verdict
from prmbench.errors import UserError
from prmbench.stats.repeats import majority
from prmbench.stats.thresholds import f1_from_counts
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
"""(label of a trace, whether the prediction is it)."""


def problems(set: str, problems: str | None = None, prompt: str = "boxed", **_: Any) -> dict[str, Dataset]:
    """The documents of a policy task.

    Args:
        set: a problem set by name, from the local folder or the Hub; ``miniature``: made here.
        problems: a file of ``{id, problem, answer}`` records instead (``--metadata '{"problems": "FILE"}'``).
        prompt: prompt template by name.

    Raises:
        UserError: as `prmbench.data.problem_sets.find_problems`; a prompt with a system message, which lm-eval has elsewhere.
    """
    from datasets import Dataset

    template = find_prompt(prompt)
    if template.system is not None:
        raise UserError(
            f"prompt '{prompt}': has a system message; pass it with --system_instruction and use another template"
        )
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
    """avg, pass and maj of all completions of one problem, judged by our verifier. lm-eval does not say which were cut."""
    (completions,) = results
    golds = [doc["answer"]] * len(completions)
    verdicts = _verifier().verify(list(completions), golds, style=doc["style"])
    correct = [v == Verdict.CORRECT for v in verdicts]
    n = len(completions)
    return {
        f"avg@{n}": sum(correct) / n,
        f"pass@{n}": float(any(correct)),
        f"maj@{n}": majority(answer_classes(completions, correct, doc["style"]), correct),
    }


def traces(subset: str, traces: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The documents of a critic task: ProcessBench's subset, or a file of such records (``--metadata '{"traces": "FILE"}'``)."""
    from datasets import Dataset

    found = load_traces(traces) if traces else load_traces(None, [subset])
    docs = [{"id": t.id, "prompt": critic_prompt(t.problem, t.steps), "label": t.label} for t in found]
    return {"test": Dataset.from_list(docs)}


def score_verdicts(doc: Doc, results: Sequence[str | Sequence[str]]) -> dict[str, Any]:
    """One trace's prediction: the verdict, or the majority of several; where none can be read, the prediction is wrong."""
    (texts,) = results
    verdicts = [parse_verdict(text) for text in ([texts] if isinstance(texts, str) else texts)]
    hit = (doc["label"], vote(verdicts) == doc["label"])
    parsed = sum(v is not None for v in verdicts) / len(verdicts)
    return {"f1": hit, "acc_error": hit, "acc_correct": hit, "parsed": parsed}


def acc_error(hits: Sequence[Hit]) -> float:
    """Share of traces with an error whose first wrong step was named."""
    mine = [hit for label, hit in hits if label >= 0]
    return sum(mine) / len(mine) if mine else float("nan")


def acc_correct(hits: Sequence[Hit]) -> float:
    """Share of traces without an error of which -1 was said."""
    mine = [hit for label, hit in hits if label < 0]
    return sum(mine) / len(mine) if mine else float("nan")


def f1(hits: Sequence[Hit]) -> float:
    """ProcessBench's F1: the harmonic mean of the two."""
    error, correct = ([hit for label, hit in hits if (label >= 0) == wanted] for wanted in (True, False))
    return float(f1_from_counts(sum(error), len(error), sum(correct), len(correct)))
