"""Extraction: cases worked by hand, a property for nested braces, and linear time on hostile text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.errors import ArgumentError
from prmbench.verify import extract_answer
from prmbench.verify.extract import STYLES


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5} it is", "5"),
        (r"\boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x : x > 1\right.}", r"\left\{x : x > 1\right."),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\fbox{east}", "east"),
        (r"\boxed  {7}", "7"),
        ("\\boxed{\n 7 \n}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed 5", "5"),
        (r"$\boxed 5$.", "5"),
        (r"\boxed -12, so", "-12"),
        (r"\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed{4} and cut off \boxed{5", "4"),
        (r"\boxed{4}. (Answers go in \boxed{}.)", "4"),
        (r"{ an open brace \boxed{6}", "6"),
        (r"a stray } \boxed{6} }", "6"),
        (r"\boxedness{5}", None),
        (r"\boxed{5", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        ("no box, 5", None),
        ("", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


nested = st.recursive(
    st.text(alphabet="abc12+-^_ ", min_size=1, max_size=4),
    lambda inner: st.one_of(
        inner.map(lambda s: "{" + s + "}"),
        inner.map(lambda s: r"\{" + s),
        inner.map(lambda s: s + r"\}"),
        st.tuples(inner, inner).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(content=nested, before=st.text(max_size=20), after=st.text(alphabet="xyz .\n{$", max_size=10))
def test_any_nesting_comes_back_whole(content: str, before: str, after: str) -> None:
    """Whatever surrounds it: text before, and after it open braces that nothing closes."""
    text = f"{before} \\boxed{{1}}, then \\boxed{{{content}}}{after}"
    assert extract_answer(text) == (content.strip() or "1")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 5", "5"),
        ("**Answer:** $5$.", "$5$"),
        ("**Answer**: 7", "7"),
        ("Answer: **12**", "12"),
        ("### Final Answer: 8", "8"),
        ("the ANSWER is 9.", "9"),
        ("The answer is: 9", "9"),
        ("Answer: 1\nmore\nAnswer: 2\nbye", "2"),
        ("Answer:\n\n 6 \nbye", "6"),
        ("Answer: \\[\n\\boxed{\\frac{1}{2}}\n\\]", r"\frac{1}{2}"),
        (r"Answer: the value is \boxed{3} apples", "3"),
        ("Answer: $(1, 2]$", "$(1, 2]$"),
        ("answers: 5", None),
        ("unanswer: 5", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_answer_line(text: str, answer: str | None) -> None:
    assert extract_answer(text, "answer_line") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 5.", "5"),
        ("1,000 dollars", "1,000"),
        ("1,234,567.89!", "1,234,567.89"),
        ("so x = -5", "-5"),
        ("so x=−5", "-5"),
        ("3-5", "5"),
        ("7 - 2", "2"),
        ("it is +3", "3"),
        ("1/2 or 3/4", "3/4"),
        ("$18", "18"),
        ("50%", "50"),
        (".5", ".5"),
        ("6.72e-5", "6.72e-5"),
        ("(3,5)", "5"),
        ("2, 3, 40", "40"),
        ("10,20,300", "300"),
        ("1,0000", "0000"),
        ("50,000,", "50,000"),
        ("x2 is 3, y3", "3"),
        ("5cm", None),
        ("1.5.2", None),
        ("none", None),
    ],
)
def test_number(text: str, answer: str | None) -> None:
    assert extract_answer(text, "number") == answer


def test_auto_prefers_the_box_and_falls_back_to_the_answer_line() -> None:
    assert extract_answer("\\boxed{1}\nAnswer: 2", "auto") == "1"
    assert extract_answer("Answer: 2\nor 3", "auto") == "2"
    assert extract_answer("2 or 3", "auto") is None


def test_unknown_style_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"box.*boxed, answer_line, number, auto"):
        extract_answer("5", "box")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 40_000,
        r"\boxed x{" * 20_000,
        "{" * 100_000,
        "}" * 100_000,
        "1" * 100_000 + "a",
        "1," * 60_000,
        "1." * 60_000,
        "1e" * 60_000,
        "answer" + " " * 100_000,
        ("answer" + " *" * 1_000) * 50,
        "answer:" * 20_000,
        "\\boxed" + " " * 100_000,
    ],
    ids=lambda text: text[:12].strip(),
)
def test_time_is_linear(text: str) -> None:
    """A quadratic scan of these would take minutes; the bound leaves room for a busy machine."""
    start = time.perf_counter()
    for style in STYLES:
        extract_answer(text, style)  # type: ignore[arg-type]
    assert time.perf_counter() - start < 5
