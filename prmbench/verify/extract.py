"""Finding the answer in a completion, as the prompt template asked for it (docs/verification.md).

Every function is linear in the length of the text, because completions are whatever a model wrote.
"""

from __future__ import annotations

import re
from collections import deque
from typing import get_args

from prmbench.data.prompts import AnswerStyle

STYLES: tuple[str, ...] = get_args(AnswerStyle)

# Possessive quantifiers (*+, ++) keep every pattern from backtracking over long runs.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*+")
_SHORT_BOX = re.compile(r"[^\s${}]++(?:\{[^{}]*+\}[^\s${}]*+)*+")
_ANSWER = re.compile(r"\banswer[ \t*]*+(?:is\b[ \t]*+:?|:)[ \t*:]*+", re.IGNORECASE)
_BARE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])"
    r"(?:(?<![)\]}])[-+−])?"
    r"(?>(?<!\d,)\d{1,3}(?:,\d{3})+(?!,?\d)|\d+|(?=\.\d))(?>\.\d+)?(?>[eE][-+]?\d+)?(?>/\d+(?:\.\d+)?)?"
    r"(?![A-Za-z_0-9]|\.\d)"
)


def extract_answer(text: str, style: AnswerStyle = "boxed") -> str | None:
    r"""Return the answer a completion gives, or None.

    Args:
        text: the completion.
        style: ``boxed``: the content of the last complete, non-empty ``\boxed{...}`` or ``\fbox{...}``, nested braces
            balanced, ``\{`` and ``\}`` not counted; ``\boxed 5`` means the run up to the next space. ``answer_line``:
            what follows the last "Answer:", "**Answer:**" or "the answer is" on its line (or on the next line that is
            not blank), and where a box follows, the box's content. ``number``: the last number that is not part of a
            word. ``auto``: ``boxed``, else ``answer_line``.

    Raises:
        ValueError: an unknown style.
    """
    if style == "boxed":
        return _last_box(text)
    if style == "answer_line":
        return _answer_line(text)
    if style == "number":
        return _last_number(text)
    if style == "auto":
        boxed = _last_box(text)
        return boxed if boxed is not None else _answer_line(text)
    raise ValueError(f"unknown answer style {style!r}: expected one of {', '.join(STYLES)}")


def matching_braces(text: str) -> dict[int, int]:
    r"""Map the position of every ``{`` that is closed to its ``}``; a backslash hides the character after it."""
    closed: dict[int, int] = {}
    stack: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if found.group() == "{":
            stack.append(found.start())
        elif found.group() == "}" and stack:
            closed[stack.pop()] = found.start()
    return closed


def _last_box(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    closed = matching_braces(text)
    for box in reversed(boxes):
        start = box.end()
        if text.startswith("{", start):
            content = text[start + 1 : closed.get(start, start + 1)].strip()
        else:
            short = _SHORT_BOX.match(text, start)
            content = short.group().rstrip(".,;:") if short else ""
        if content:
            return content
    return None


def _answer_line(text: str) -> str | None:
    last = _last_match(_ANSWER, text)
    if last is None:
        return None
    rest = text[last.end() :]
    boxed = _last_box(rest)
    if boxed is not None:
        return boxed
    line = next((line for line in re.split(r"[\r\n]+", rest) if line.strip(" \t*")), "")
    return line.strip(" \t*").removesuffix(".").rstrip(" \t*") or None


def _last_number(text: str) -> str | None:
    last = _last_match(_BARE_NUMBER, text)
    return last.group().lstrip("+").replace("−", "-") if last else None


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def parse_verdict(text: str) -> int | None:
    """The last boxed whole number; None where the last box holds something else, or there is none."""
    answer = extract_answer(text, "boxed")
    if answer is None:
        return None
    try:
        return int(answer.strip().strip("$").strip())
    except ValueError:
        return None
