"""What counts and what does not, by kind of answer: the table in answers_by_kind.txt, and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prmbench.data.verdicts import Verdict
from prmbench.verify import AnswerStyle, Verifier

TABLE = Path(__file__).with_name("answers_by_kind.txt")
WHOLE: dict[str, AnswerStyle] = {"several boxes": "boxed", "answer lines": "answer_line"}
"""Kinds whose answers are whole completions, with the style to read them in."""


def rows() -> dict[str, list[tuple[bool, str, str]]]:
    found: dict[str, list[tuple[bool, str, str]]] = {}
    for line in TABLE.read_text(encoding="utf-8").split("\n"):
        if line.startswith("# "):
            kind = found.setdefault(line[2:], [])
        elif line[:2] in ("+ ", "- "):
            gold, answer = (
                re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), line[2:]).replace("⏎", "\n").split(" :: ")
            )
            kind.append((line[0] == "+", gold, answer))
    return found


ROWS = rows()


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout=60) as made:
        yield made


@pytest.mark.parametrize("kind", ROWS)
def test_every_answer_of_a_kind(verifier: Verifier, kind: str) -> None:
    counts, golds, answers = zip(*ROWS[kind], strict=True)
    assert len(counts) >= 13
    assert {True, False} == set(counts)
    texts = answers if kind in WHOLE else [rf"Hence the answer is $\boxed{{{answer}}}$." for answer in answers]
    verdicts = verifier.verify(texts, golds, style=WHOLE.get(kind, "boxed"))
    assert set(verdicts) <= {Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED}
    wrong = [
        (gold, answer, str(verdict))
        for count, gold, answer, verdict in zip(counts, golds, answers, verdicts, strict=True)
        if (verdict == Verdict.CORRECT) != count
    ]
    assert wrong == []
