"""Answers that are one vote: by hand, and against a slow reference that compares every pair."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from prmbench.stats.repeats import majority
from prmbench.verify import Verifier, VerifierOptions
from prmbench.verify.classes import answer_classes
from prmbench.verify.decide import MAX_QUICK


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout=60) as made:
        yield made


def boxed(*answers):
    return [f"so \\boxed{{{a}}}" if a is not None else "no answer" for a in answers]


def test_right_answers_are_one_class_and_wrong_ones_by_value(verifier):
    texts = boxed("1/2", "0.5", "3", "3.0", "x+1", "x + 1", None, "7")
    assert answer_classes(texts, [True, True] + [False] * 6, "boxed", verifier) == [0, 0, 1, 1, 2, 2, -1, 3]


def test_order_of_appearance_and_empty(verifier):
    assert answer_classes([], [], "boxed", verifier) == []
    assert answer_classes(boxed("9", "8", "9"), [False, True, False], "boxed", verifier) == [0, 1, 0]


@pytest.mark.parametrize(
    "same",
    [
        ["1/3", r"\frac{1}{3}", "0.333333", r"0.\overline{3}", r"33\frac{1}{3}\%"],
        [r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{3}\cdot 2"],
        ["x=5", "5", r"\text{The answer is } 5", "5.0"],
        ["3,4", r"\{4,3\}", r"4 \text{ and } 3"],
        ["(3,4)", r"(x,y)=(3,4)"],
        ["x^2-1", "(x-1)(x+1)", "y=x^2-1"],
        [r"(-\infty,1)", "x<1"],
        [r"\text{east}", "East."],
        ["1{,}000", r"1\,000", "10^3"],
    ],
)
def test_wrong_answers_of_one_value_are_one_vote(verifier, same):
    """They were pooled by their text before, which let the right answer win too often."""
    texts = boxed(*same, "77", *reversed(same))
    classes = answer_classes(texts, [False] * len(texts), "boxed", verifier)
    assert classes == [0] * len(same) + [1] + [0] * len(same)


def test_a_majority_that_was_wrong_is_wrong(verifier):
    texts = boxed("7", "7", r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{3}\cdot 2")
    correct = [True, True, False, False, False]
    classes = answer_classes(texts, correct, "boxed", verifier)
    assert classes == [0, 0, 1, 1, 1]
    assert majority(classes, correct) == 0
    assert majority(classes[:4], correct[:4]) == 0.5  # a tie is shared


def test_what_differs_stays_apart(verifier):
    texts = boxed("44", "45", "(3,4)", "(4,3)", "[3,4]", "204_5", "204", "x<1", r"x\le1", "R", "r", r"\text{no}", "")
    assert answer_classes(texts, [False] * 13, "boxed", verifier) == [*range(12), -1]


def test_the_verifiers_conventions_hold(verifier):
    texts = [r"\boxed{0.33}", r"\boxed{1/3}", r"<think>\boxed{9}</think>"]
    assert answer_classes(texts, [False] * 3, "boxed", verifier) == [0, 1, 2]
    with Verifier(VerifierOptions(tolerance=0.02, think=False)) as other:
        assert answer_classes(texts, [False] * 3, "boxed", other) == [0, 0, -1]


@pytest.mark.parametrize("size", [MAX_QUICK + 1, 200_000])
def test_very_long_answers_are_compared_as_they_are(verifier, size):
    assert answer_classes(boxed("(" * size, "(" * size, "1"), [False] * 3, "boxed", verifier)[2] != 0


def random_answer(draw: random.Random) -> str:
    """One of few values in one of many spellings. Equality is transitive among them: no bare list is also written as a tuple."""
    a, b = draw.sample((2, 3, 4), 2)
    spellings = [
        *(f"{a}", f"{a}.0", f"x={a}", rf"\text{{It is }} {a}", rf"\frac{{{2 * a}}}{{2}}", f"{100 * a}\\%"),
        *(f"{a}/{b}", rf"\frac{{{a}}}{{{b}}}", f"{a / b:.6f}", f"{a / b:.3f}"),
        *(rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{b}}}\cdot {a}"),
        *(f"{a}x+{b}", f"{b}+{a}x", f"y={a}x+{b}", f"y-{a}x={b}"),
        *(f"{a},{b}", rf"\{{{b},{a}\}}", f"({a},{b},9)", f"[{a},{b},9]", rf"x={a} \text{{ or }} x={b}"),
        *(f"x<{a}", rf"(-\infty,{a})", rf"\text{{{'north' if a > 2 else 'south'}}}", "north", f"{a}_{{{b + 5}}}", "@#"),
    ]
    return draw.choice(spellings)


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_agrees_with_a_slow_reference(verifier, seed):
    """Two answers are in one class exactly when each equals the other taken as the gold, or a third one joins them."""
    draw = random.Random(seed)
    answers = list(dict.fromkeys(random_answer(draw) for _ in range(50)))
    texts = boxed(*answers)
    classes = answer_classes(texts, [False] * len(texts), "boxed", verifier)
    pairs = [(i, j) for i in range(len(answers)) for j in range(len(answers)) if i != j]
    verdicts = verifier.verify([texts[j] for _, j in pairs], [answers[i] for i, _ in pairs])
    equal = {pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict == "correct"}
    group = list(range(len(answers)))
    for i, j in pairs:
        if i < j and (i, j) in equal and (j, i) in equal:
            group = [group[i] if g == group[j] else g for g in group]
    for i, j in pairs:
        assert (classes[i] == classes[j]) == (group[i] == group[j]), (answers[i], answers[j])


def test_thousands_of_answers_are_compared_few_times(verifier, monkeypatch):
    """The jobs grow with the number of different answers, not with its square."""
    jobs = []
    run = Verifier.run
    monkeypatch.setattr(Verifier, "run", lambda self, some: jobs.extend(some) or run(self, some))
    draw = random.Random(0)
    answers = [rf"{draw.randint(2, 60)}\sqrt{{{draw.choice([2, 3, 5, 7])}}}" for _ in range(3000)]
    classes = answer_classes(boxed(*answers), [False] * 3000, "boxed", verifier)
    assert len(set(classes)) == len(set(answers)) > 200
    assert len(jobs) < 2 * len(set(answers))
