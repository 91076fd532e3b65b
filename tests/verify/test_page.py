"""Every example of docs/verification.md has the verdict that the page gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prmbench.verify import Verifier

PAGE = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
ROW = re.compile(r"\| `([^`]*)` \| `([^`]*)` \| (correct|wrong) ")
SECTIONS = [part for part in re.split(r"(?m)^#+ ", PAGE) if ROW.search(part)]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout=60) as made:
        yield made


@pytest.mark.parametrize("section", SECTIONS, ids=[part.split("\n")[0] for part in SECTIONS])
def test_examples(verifier: Verifier, section: str) -> None:
    rows = [row for line in section.split("\n") for row in ROW.findall(line)]
    assert len(rows) >= 4
    assert len(rows) == len(re.findall(r"\| (?:correct|wrong) ", section))
    golds, answers, said = zip(*rows, strict=True)
    completions = [answer if r"\boxed" in answer else rf"So it is $\boxed{{{answer}}}$." for answer in answers]
    verdicts = verifier.verify(completions, golds)
    assert [(g, a, str(v)) for g, a, v in zip(golds, answers, verdicts, strict=True)] == [
        *zip(golds, answers, said, strict=True)
    ]
