"""Problem sets by name: the local folder in ``PRMBENCH_DATA_DIR`` first, then the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.problems import Problem, check_problems, load_problems
from prmbench.data.records import stem
from prmbench.data.traces import DATA_DIR_VARIABLE
from prmbench.errors import UserError, first_line, nearest


@dataclass(frozen=True)
class ProblemSet:
    """Where a named set is.

    Attributes:
        file: under the data folder, without suffix. hub, config, split: of the Hub's copy. read: (problem, answer) of a row there.
    """

    file: str
    hub: str
    config: str | None
    split: str
    read: Callable[[dict[str, Any]], tuple[str, str]]


def _plain(problem: str, answer: str) -> Callable[[dict[str, Any]], tuple[str, str]]:
    return lambda row: (str(row[problem]), str(row[answer]))


def _after_marks(row: dict[str, Any]) -> tuple[str, str]:
    """GSM8K writes the answer after four hashes, with thousands separators."""
    return row["question"], re.sub(r"(?<=\d),(?=\d)", "", row["answer"].rpartition("####")[2].strip())


def _final_answers(row: dict[str, Any]) -> tuple[str, str]:
    return row["question"], ", ".join(text.strip().strip("$") for text in row["final_answer"])


PROBLEM_SETS = {
    "aime": ProblemSet("policy/aime", "AI-MO/aimo-validation-aime", None, "train", _plain("problem", "answer")),
    "amc": ProblemSet("policy/amc", "AI-MO/aimo-validation-amc", None, "train", _plain("problem", "answer")),
    "amc23": ProblemSet("policy/amc23", "math-ai/amc23", None, "test", _plain("question", "answer")),
    "math500": ProblemSet("policy/math500", "HuggingFaceH4/MATH-500", None, "test", _plain("problem", "answer")),
    "minerva_math": ProblemSet(
        "policy/minerva_math", "math-ai/minervamath", None, "test", _plain("question", "answer")
    ),
    "olympiadbench": ProblemSet(
        "policy/olympiadbench", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _final_answers
    ),
    "gsm8k": ProblemSet("problems/gsm8k_test", "openai/gsm8k", "main", "test", _after_marks),
}

POLICY_SETS = ("aime", "amc", "math500", "minerva_math", "olympiadbench")
"""The five benchmarks of Table 5."""


def find_problems(names: Sequence[str], limit: int | None = None) -> dict[str, list[Problem]]:
    """Load problem sets.

    Args:
        names: of `PROBLEM_SETS`, or files of ``{id, problem, answer}`` records, which are called by their file names.
        limit: keep the first this many of each.

    Raises:
        UserError: an unknown name (the nearest is named), a wrong file, or a set that is neither here nor to be had from the Hub.
    """
    found: dict[str, list[Problem]] = {}
    for name in names:
        path = Path(name)
        is_file = path.suffix != "" or path.is_file()
        if not is_file and name not in PROBLEM_SETS:
            raise UserError(
                f"problem set '{name}' is not known{nearest(name, PROBLEM_SETS)}; known: {', '.join(PROBLEM_SETS)}, or a file of "
                "{id, problem, answer} records"
            )
        key = stem(path) if is_file else name
        if not key.strip("."):
            raise UserError(f"{path}: a problem set is called by its file's name, and this has none; rename it")
        if key in found:
            raise UserError(f"problem set '{key}' is named twice; rename one of the files")
        found[key] = (load_problems(path) if is_file else _named(name))[:limit]
    return found


def _named(name: str) -> list[Problem]:
    known = PROBLEM_SETS[name]
    root = os.environ.get(DATA_DIR_VARIABLE)
    if root:
        for suffix in (".jsonl", ".json", ".jsonl.gz", ".parquet"):
            file = Path(root) / (known.file + suffix)
            if file.exists():
                return load_problems(file)
    import datasets

    try:
        rows = datasets.load_dataset(known.hub, known.config, split=known.split)
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
