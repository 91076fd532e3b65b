"""Gold answers: whole solutions are read, empty ones refused, unreadable ones told once before a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prmbench.data.problems import Problem
from prmbench.errors import UserError
from prmbench.verify import Verifier, verify
from prmbench.verify.extract import read_gold
from prmbench.verify.golds import check_golds, checked_verifier


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout=60) as made:
        yield made


def problems(*golds: str) -> list[Problem]:
    return [Problem(f"p{i}", "What?", gold) for i, gold in enumerate(golds)]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("18", "18"),
        ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $18.\n#### 18", "18"),
        ("... #### 1,080 ", "1,080"),
        (r"We find that $x = 2$, so the area is $\boxed{\frac{9}{4}}$.", r"\frac{9}{4}"),
        (r"The roots are $\boxed{1}$ and $\boxed{3}$.", "1, 3"),
        ("work ####  ", ""),
        ("  ", ""),
    ],
)
def test_read_gold(gold: str, answer: str) -> None:
    assert read_gold(gold) == answer


def test_whole_solutions_are_verified_against() -> None:
    golds = ["9 + 9 = 18\n#### 18", r"so $\boxed{\frac{1}{2}}$"]
    assert verify([r"\boxed{18.0}", r"\boxed{0.5}"], golds) == ["correct", "correct"]
    assert verify([r"\boxed{9}", r"\boxed{2}"], golds) == ["wrong", "wrong"]


def test_empty_golds_are_refused_with_their_number(verifier: Verifier) -> None:
    with pytest.raises(UserError, match="2 of 3 gold answers are empty, for example that of problem 'p1'"):
        check_golds(problems("5", "so ####", "work\n#### "), verifier)
    with pytest.raises(UserError, match="1 of 1 gold answers is empty"):
        checked_verifier(problems("#### "))


def test_unreadable_golds_are_told_once(verifier: Verifier) -> None:
    golds = [
        "5",
        r"\frac{63}{400",
        "x+1",
        r"\text{east}",
        "(1,2]",
        r"\begin{cases} 1 \\ 2 \end{cases}",
        r"\frac{63}{400",
    ]
    told = check_golds(problems(*golds), verifier)
    assert told is not None
    assert told.startswith("3 of 7 gold answers are no mathematics that can be read, for example that of problem 'p1'")
    assert r"\frac{63}{400" in told


def test_readable_golds_are_no_news(verifier: Verifier, capsys: pytest.CaptureFixture[str]) -> None:
    golds = [
        *(
            "18",
            r"\$1,000",
            "62.5%",
            r"\frac{1}{2}",
            "June 20",
            "(B)",
            "204_5",
            "3, 5",
            "(1, 2]",
            "x^2+1",
            "y = 2x + 3",
            "x<3",
        ),
        *(
            r"\pm 2",
            r"(-\infty, 1) \cup (2, \infty)",
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            "1 + 2i",
            r"2k\pi, k \in \mathbb{Z}",
        ),
        *("#### 7", r"f(x) = x^2 \text{ for all } x", r"\operatorname{Var}(X) = 3", r"5 \text{ cm}", r"x\%", "5:3"),
    ]
    assert check_golds(problems(*golds), verifier) is None
    checked_verifier(problems(*golds)).close()
    assert capsys.readouterr().err == ""


def test_plain_golds_start_no_process() -> None:
    with Verifier() as made:
        assert check_golds(problems("5", r"\frac{1}{2}", "east", "1, 2"), made) is None
        assert made.worker_pids() == []


def test_a_warning_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    checked_verifier(problems("5", r"\frac{1")).close()
    assert capsys.readouterr().err.startswith("warning: 1 of 2 gold answers is no mathematics that can be read")
    checked_verifier(problems("5", r"\frac{1"), quiet=True).close()
    assert capsys.readouterr().err == ""
