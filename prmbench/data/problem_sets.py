"""Problem sets by name: the local folder in ``PRMBENCH_DATA_DIR`` first, then the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.problems import Problem, check_problems, load_problems
from prmbench.data.records import SUFFIXES, check_limit, stem
from prmbench.data.revisions import refuse_revision, split_revision
from prmbench.data.traces import DATA_DIR_VARIABLE
from prmbench.errors import UserError, first_line, nearest

Row = dict[str, Any]


def _plain(problem: str, answer: str) -> Callable[[Row], tuple[str, str]]:
    return lambda row: (str(row[problem]), str(row[answer]))


def _after_marks(row: Row) -> tuple[str, str]:
    """GSM8K writes the answer after four hashes, with thousands separators."""
    return row["question"], re.sub(r"(?<=\d),(?=\d)", "", row["answer"].rpartition("####")[2].strip())


def _final_answers(row: Row) -> tuple[str, str]:
    return row["question"], ", ".join(text.strip().strip("$") for text in row["final_answer"])


_QUESTION, _MATH = _plain("question", "answer"), _plain("problem", "answer")


@dataclass(frozen=True)
class ProblemSet:
    """Where a named set is.

    Attributes:
        file: Its file under the data folder, without suffix.
        hub: Its repository on the Hub.
        config: Configuration of the repository; None is the only one.
        split: Split of the repository.
        read: Makes the problem and its answer from a row of the repository.
    """

    file: str
    hub: str
    config: str | None = None
    split: str = "test"
    read: Callable[[Row], tuple[str, str]] = _QUESTION


PROBLEM_SETS = {
    "aime": ProblemSet("policy/aime", "AI-MO/aimo-validation-aime", split="train", read=_MATH),
    "amc": ProblemSet("policy/amc", "AI-MO/aimo-validation-amc", split="train", read=_MATH),
    "amc23": ProblemSet("policy/amc23", "math-ai/amc23"),
    "math500": ProblemSet("policy/math500", "HuggingFaceH4/MATH-500", read=_MATH),
    "minerva_math": ProblemSet("policy/minerva_math", "math-ai/minervamath"),
    "olympiadbench": ProblemSet(
        "policy/olympiadbench", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _final_answers
    ),
    "gsm8k": ProblemSet("problems/gsm8k_test", "openai/gsm8k", "main", read=_after_marks),
}

RECENT_SETS = {
    name: ProblemSet(f"policy/{name}", f"MathArena/{hub}", split="train", read=_MATH)
    for name, hub in (
        ("aime25", "aime_2025"),
        ("aime26", "aime_2026"),
        ("hmmt_feb25", "hmmt_feb_2025"),
        ("hmmt_nov25", "hmmt_nov_2025"),
        ("hmmt_feb26", "hmmt_feb_2026"),
    )
}
"""Contests after those of the paper, as MathArena keeps them on the Hub."""

KNOWN_SETS = PROBLEM_SETS | RECENT_SETS
"""Every set that has a name."""

POLICY_SETS = ("aime", "amc", "math500", "minerva_math", "olympiadbench")
"""The five benchmarks of Table 5."""


def find_problems(names: Sequence[str], limit: int | None = None) -> dict[str, list[Problem]]:
    """Load problem sets.

    Args:
        names: Names in `KNOWN_SETS`, which may have a revision of the set's repository behind them (``math500@REVISION``), or
            files of ``{id, problem, answer}`` records, which are called by their file names.
        limit: Keep the first this many of each; None keeps all.

    Returns:
        The problems of each set, by its name.

    Raises:
        UserError: A name is not known (the nearest is given) or used twice, a file is wrong, or a set is neither here nor to be
            had from the Hub.
    """
    check_limit(limit)
    found: dict[str, list[Problem]] = {}
    for name in names:
        path, revision = Path(name), None
        if split_revision(name)[1] is not None and split_revision(name)[0] in KNOWN_SETS:
            name, revision = split_revision(name)
        is_file = revision is None and (path.suffix != "" or path.is_file())
        if not is_file and name not in KNOWN_SETS:
            raise UserError(
                f"problem set '{name}' is not known{nearest(name, KNOWN_SETS)}; known: {', '.join(KNOWN_SETS)}, or a file of "
                "{id, problem, answer} records"
            )
        key = stem(path) if is_file else name
        if not key.strip("."):
            raise UserError(f"{path}: a problem set is called by its file's name, and this has none; rename it")
        if key in found:
            raise UserError(f"problem set '{key}' is named twice; rename one of the files")
        found[key] = (load_problems(path) if is_file else _named(name, revision))[:limit]
    return found


def _named(name: str, revision: str | None) -> list[Problem]:
    known = KNOWN_SETS[name]
    if root := os.environ.get(DATA_DIR_VARIABLE):
        for suffix in SUFFIXES:
            if (file := Path(root) / (known.file + suffix)).exists():
                refuse_revision(revision, file)
                return load_problems(file)
    import datasets

    try:
        rows = datasets.load_dataset(known.hub, known.config, split=known.split, revision=revision)
        pairs = [known.read(row) for row in rows]
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"{name}: cannot be loaded from the Hub ({known.hub}: {first_line(error)}); set {DATA_DIR_VARIABLE} to a folder "
            f"that holds {known.file}.jsonl, or pass a file of {{id, problem, answer}} records"
        ) from None
    return check_problems(
        (f"{known.hub}, row {i}", {"id": f"{name}-{i}", "problem": problem, "answer": answer})
        for i, (problem, answer) in enumerate(pairs)
    )
