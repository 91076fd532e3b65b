from __future__ import annotations

import pytest

from prmbench.verify.classes import MAX_LENGTH, answer_classes


def boxed(*answers):
    return [f"so \\boxed{{{a}}}" if a is not None else "no answer" for a in answers]


def test_right_answers_are_one_class_and_wrong_ones_by_value():
    texts = boxed("1/2", "0.5", "3", "3.0", "x+1", "x + 1", None, "7")
    assert answer_classes(texts, [True, True, False, False, False, False, False, False], "boxed") == [
        0,
        0,
        1,
        1,
        2,
        2,
        -1,
        3,
    ]


def test_order_of_appearance_and_empty():
    assert answer_classes([], [], "boxed") == []
    assert answer_classes(boxed("9", "8", "9"), [False, True, False], "boxed") == [0, 1, 0]


def test_percent_is_not_the_plain_number():
    assert answer_classes(boxed("44\\%", "44"), [False, False], "boxed") == [0, 1]


@pytest.mark.parametrize("size", [MAX_LENGTH + 1, 200_000])
def test_very_long_answers_are_compared_as_they_are(size):
    assert answer_classes(boxed("(" * size, "(" * size, "1"), [False] * 3, "boxed")[2] != 0
