"""Conventions: what each option changes, that the version carries it, and that the paper's is math-verify's own verdict."""

from __future__ import annotations

import pytest
from math_verify import parse
from math_verify import verify as plain

from prmbench.errors import ArgumentError
from prmbench.verify import VerifierOptions, verifier_version, verify
from prmbench.verify.options import recorded_options


def verdicts(gold: str, *texts: str, **options: object) -> list[str]:
    return [str(one) for one in verify(texts, [gold] * len(texts), options=VerifierOptions(**options), timeout=30)]  # type: ignore[arg-type]


def test_the_version_carries_the_convention() -> None:
    assert verifier_version() == verifier_version(VerifierOptions())
    assert verifier_version().startswith("prmbench 3 strict; math-verify ")
    made = {
        verifier_version(VerifierOptions(**options))  # type: ignore[arg-type]
        for options in ({}, {"name": "paper"}, {"tolerance": 0.01}, {"tolerance": 0.0}, {"think": False})
    }
    assert len(made) == 5
    assert verifier_version(VerifierOptions("paper", tolerance=0.5)) == verifier_version(VerifierOptions("paper"))
    assert " strict,tolerance=0.01,think=false; " in verifier_version(VerifierOptions(tolerance=0.01, think=False))


@pytest.mark.parametrize("text", ["strict", "paper", "strict,tolerance=0.0", "strict,tolerance=1e-07,think=false"])
def test_conventions_are_read_as_they_are_written(text: str) -> None:
    options = VerifierOptions.parse(text)
    assert str(options) == text
    assert recorded_options(verifier_version(options)) == options
    assert VerifierOptions.parse(text.replace(",", " , ").replace("=", " = ")) == options


def test_a_run_of_a_version_without_conventions_had_the_defaults() -> None:
    assert recorded_options("prmbench 1; math-verify 0.8.0") == VerifierOptions()


@pytest.mark.parametrize(
    "text", ["", "exact", "strict,", "strict,tolerance", "strict,tolerance=x", "strict,tolerance=nan", "strict,tolerance=1",
             "strict,think=no", "strict,thinking=true", "strict;think=false"]
)  # fmt: skip
def test_other_conventions_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^`verifier=.*expected strict, paper, or"):
        VerifierOptions.parse(text)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "exact"}, "name=exact.*strict, paper"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"tolerance": 1}, "tolerance=1"),
    ],
)
def test_options_are_checked(options: dict[str, object], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        VerifierOptions(**options)  # type: ignore[arg-type]


def test_tolerance() -> None:
    texts = [r"\boxed{0.333333}", r"\boxed{0.333}", r"\boxed{0.33}", r"\boxed{0.3}", r"\boxed{1/3}"]
    assert verdicts(r"\frac{1}{3}", *texts) == ["correct", "wrong", "wrong", "wrong", "correct"]
    assert verdicts(r"\frac{1}{3}", *texts, tolerance=0.01) == ["correct", "correct", "correct", "wrong", "correct"]
    assert verdicts(r"\frac{1}{3}", *texts, tolerance=0.0) == ["wrong", "wrong", "wrong", "wrong", "correct"]
    irrational = [r"\boxed{1.41}", r"\boxed{1.4}", r"\boxed{\frac{7}{5}}", r"\boxed{\sqrt{2}}"]
    assert verdicts(r"\sqrt{2}", *irrational, tolerance=0.005) == ["correct", "wrong", "wrong", "correct"]
    assert verdicts("(12, 5)", r"\boxed{(12.02, 5)}", r"\boxed{(12.2, 5)}", tolerance=0.01) == ["correct", "wrong"]
    assert verdicts("12", r"\boxed{12.02}", r"\boxed{13}", tolerance=0.01) == ["correct", "wrong"]


def test_a_box_inside_think() -> None:
    texts = [
        r"<think> \boxed{7} </think>",
        r"<think> \boxed{6} </think> It is \boxed{7}.",
        r"<think> \boxed{7} </think> It is \boxed{6}.",
        r"<think> perhaps \boxed{7}",
        r"\boxed{7}</think>",
        r"\boxed{7}",
    ]
    assert verdicts("7", *texts) == ["correct", "correct", "wrong", "correct", "correct", "correct"]
    expected = ["unparsed", "correct", "wrong", "unparsed", "unparsed", "correct"]
    assert verdicts("7", *texts, think=False) == expected


PAPERS = [
    ("3", "no box, but the answer is 3"),
    ("3", r"\boxed{3}"),
    ("3", r"\boxed{4}"),
    ("3, 5", r"\boxed{3} and \boxed{5}"),
    (r"\frac{1}{2}", "so $x = 0.5$"),
    ("357", r"\boxed{12\,345}"),
    ("x", "nothing"),
    ("5", ""),
]


def test_the_papers_convention_is_plain_math_verify() -> None:
    """Also where that is wrong: it adds numbers side by side."""
    found = verify(
        [text for _, text in PAPERS], [gold for gold, _ in PAPERS], options=VerifierOptions("paper"), timeout=30
    )
    for (gold, text), verdict in zip(PAPERS, found, strict=True):
        read = parse(text)
        expected = "unparsed" if not read else "correct" if plain(parse(rf"\boxed{{{gold}}}"), read) else "wrong"
        assert verdict == expected, (gold, text)
    assert found[5] == "correct"
    assert {"correct", "wrong", "unparsed"} == set(map(str, found))
