"""Finding the answer in a completion, as the prompt template asked for it (docs/verification.md).

Every function is linear in the length of the text, because completions are whatever a model wrote.
"""

from __future__ import annotations

import re
from collections import deque
from typing import get_args

from prmbench.data.prompts import AnswerStyle
from prmbench.errors import ArgumentError

STYLES: tuple[str, ...] = get_args(AnswerStyle)

# Possessive quantifiers (*+, ++) keep every pattern from backtracking over long runs.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*+")
_SHORT_BOX = re.compile(r"[^\s${}]++(?:\{[^{}]*+\}[^\s${}]*+)*+")
_NAME = r"(?:\\?[A-Za-z]++(?:_(?:\{\w{1,9}\}|\w))?(?:\([^()$]{0,20}\))?|\([A-Za-z, ]{3,9}\))\s*+&?\s*+="
_JOINING = "and|or|also|as well as|either|else|alternatively|equivalently|maybe|perhaps|possibly|part(?: \\w)?"
# What may stand between two boxes of one answer: punctuation, "and", "or", names (`x =`), labels of parts, list marks.
_BETWEEN = re.compile(
    rf"(?:\s|[$,;&~*:]|\\[][(),;:!>&\\ ]|\\q?quad\b|\\(?:text\w*|mbox)\s*+\{{[\s,]*(?:and|or)?[\s,]*\}}|{_NAME}"
    rf"|\\(?:lor|vee|land)\b|\(?\b[A-Za-z0-9]{{1,3}}\)|(?<=\n)(?:[-•]|\d\.)|\b(?:{_JOINING})\b)*+",
    re.IGNORECASE,
)
_MAX_BETWEEN = 80
_NAME_BEFORE = re.compile(rf"(?<![A-Za-z\\])({_NAME})[\s$\\(\[]*$")
_IS = r"is\b(?:[ \t]+(?:therefore|thus|then|hence|just|simply))?[ \t*]*+:?"
_ANSWER = re.compile(
    rf"\banswer[ \t*_]*+(?:(?:to|for|of)\b[^\n.:=$]{{0,60}}?[ \t]{_IS}|{_IS}|[:：])[ \t*_:]*+"
    r"|(?:(?<=\n)|\A)[ \t]*+(?:[#*_]++[ \t]*+(?:final[ \t]++)?|(?:the[ \t]++)?final[ \t]++)answer[ \t*_:：]*+(?=\n)"
    r"|(?:答案|答え?)[ \t*]*+(?:[是为為は:：])[ \t*:：]*+"
    r"|\b(?:réponse|respuesta|resposta|risposta|antwort|ответ)[ \t*]*+(?:finale?\b[ \t*]*+)?(?::|(?:est|es|é|è|ist)\b)[ \t*:]*+",
    re.IGNORECASE,
)
_BLOCKS = (("$$", "$$"), ("\\[", "\\]"), ("```", "```"))
# Where the answer on a line ends: a new sentence, or a reason.
_REASON = re.compile(
    r"(?:\.|。|!)(?=[*_`]*\s+[A-Z\\(])|[,;.]?\s*\(?\b(?:since|because|as (?:required|desired|claimed|shown|needed)|I hope)\b"
    r"|\s+and (?:so )?we(?:'re| are) done\b|[,;]\s*(?:so|which|this|as|from|by)\b|\s\((?:see|using|by|from)\b|。"
)
_WRAPPERS = ' \t*_`"“”'
_PICTURES = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff\ufe0f]+")
_BARE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])"
    r"(?:(?<![)\]}])[-+−])?"
    r"(?>(?<!\d,)\d{1,3}(?:(?:,|\{,\}|\\,|[\u2009\u202f\u00a0])\d{3})+(?!,?\d)|\d+|(?=\.\d))"
    r"(?>\.\d+)?(?>[eE][-+]?\d+)?(?>/\d+(?:\.\d+)?)?"
    r"(?![A-Za-z_0-9]|\.\d)"
)
_THINK = "<think>", "</think>"


def extract_answer(text: str, style: AnswerStyle = "boxed", *, think: bool = True) -> str | None:
    r"""Find the answer that a completion gives.

    Args:
        text: The completion.
        style: Where the answer is. ``boxed``: in the last complete, non-empty ``\boxed{...}`` or ``\fbox{...}``. Braces are
            balanced, ``\{`` and ``\}`` are not counted, and ``\boxed 5`` reads to the next space. Boxes that only commas,
            "and", "or" and names (``x =``) separate are one answer, a list. ``answer_line``: after the last "Answer:" or
            "the answer is", to the end of the line or of a displayed formula; where a box follows, the box.
            ``number``: the last number that is not part of a word. ``auto``: ``boxed``, else ``answer_line``.
        think: Whether what stands inside ``<think>...</think>`` is looked at.

    Returns:
        The answer as written, or None where there is none.

    Raises:
        ArgumentError: An unknown style.
    """
    if style not in STYLES:
        raise ArgumentError("style", style, f"unknown answer style; expected one of {', '.join(STYLES)}")
    if not think:
        text = text.rpartition(_THINK[1])[2].partition(_THINK[0])[0]
    if style == "number":
        return _last_number(text)
    found = _last_boxes(text) if style != "answer_line" else None
    return found if found is not None or style == "boxed" else _answer_line(text)


def read_gold(gold: str) -> str:
    r"""Read a gold answer.

    Args:
        gold: The answer as its source has it. A whole solution is read too: GSM8K's ends with ``#### 18``, MATH's has a box.

    Returns:
        The answer alone; empty where there is none.
    """
    mark, answer = gold.rpartition("####")[1:]
    return answer.strip() if mark else (_last_boxes(gold) or gold.strip())


def matching_braces(text: str) -> dict[int, int]:
    r"""Pair the braces of a text.

    Args:
        text: Any text. A backslash hides the character after it.

    Returns:
        The position of every ``{`` that is closed, with the position of its ``}``.
    """
    closed: dict[int, int] = {}
    stack: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if found.group() == "{":
            stack.append(found.start())
        elif found.group() == "}" and stack:
            closed[stack.pop()] = found.start()
    return closed


def _last_boxes(text: str) -> str | None:
    """Return the content of the last box, or a list where the boxes before it belong to the same answer."""
    starts = list(_BOX.finditer(text))
    closed = matching_braces(text) if starts else {}
    answers: list[str] = []
    named: list[str] = []
    at = len(text)  # where the boxes found so far begin
    for box in reversed(starts):
        inside = box.end()
        if text.startswith("{", inside):
            end = closed.get(inside, inside)
            content = text[inside + 1 : end].strip()
            end += 1
        else:
            short = _SHORT_BOX.match(text, inside)
            content = short.group().rstrip(".,;:") if short else ""
            end = inside + len(content)
        if not content:
            continue
        if answers and end > at:  # it holds the box that was found
            at = box.start()
            continue
        if answers and (at - end > _MAX_BETWEEN or not _BETWEEN.fullmatch(text, end, at)):
            break
        name = _NAME_BEFORE.search(text[max(0, box.start() - 40) : box.start()])
        at = box.start()
        answers.append(content)
        named.append(f"{name[1].replace('&', '')} {content}" if name else content)
    return answers[0] if len(set(answers)) == 1 else ", ".join(reversed(named)) or None


def _answer_line(text: str) -> str | None:
    """Return what follows the last announcement of an answer: a box, a displayed formula, or the rest of the line."""
    last = _last_match(_ANSWER, text)
    if last is None:
        return None
    rest = text[last.end() :]
    boxed = _last_boxes(rest)
    if boxed is not None:
        return boxed
    rest = rest.lstrip(_WRAPPERS + "\r\n")
    for opening, closing in _BLOCKS:
        if rest.startswith(opening) and (end := rest.find(closing, len(opening))) > 0:
            return rest[len(opening) : end].strip() or None
    line = re.split(r"[\r\n]", rest, maxsplit=1)[0]
    reason = _REASON.search(line)
    line = line[: reason.start()] if reason and line[: reason.start()].strip(_WRAPPERS) else line
    line = (_PICTURES.sub("", line).strip(_WRAPPERS) or line).strip(_WRAPPERS)
    exclaims = r"!$|\.$" if "is" in last.group().split() else r"(?<=\$)!$|\.$"  # behind a colon it is a factorial
    return re.sub(exclaims, "", line).rstrip(_WRAPPERS) or None


def _last_number(text: str) -> str | None:
    last = _last_match(_BARE_NUMBER, text)
    return last.group().lstrip("+").replace("−", "-") if last else None


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def parse_verdict(text: str) -> int | None:
    """Read a critic's verdict.

    Args:
        text: What the critic wrote.

    Returns:
        The whole number in the last box; None where it holds something else, or there is no box.
    """
    answer = extract_answer(text, "boxed")
    if answer is None:
        return None
    try:
        return int(answer.strip().strip("$").strip())
    except ValueError:
        return None
