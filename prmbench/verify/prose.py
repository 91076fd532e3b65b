r"""Words around a value: what it is called in front (``\text{The answer is } 5``), and for which values it holds behind."""

from __future__ import annotations

import re

# In front of a value.
_SAYS = (
    r"\b(?:is|are|equals?|be|equal to|a total of|there are|there is|we have|we get|gives|takes|needs|costs|exactly|only)\s*"
    r"|[是为為は有:=]\s*"
)
_MARKED_LEAD = re.compile(  # `\text{The answer is }`, `\text{Area} =`
    rf"(?:.*\\text\s*\{{[^{{}}\d]*?(?:{_SAYS})\}}\s*[:=]?|\\text\s*\{{[^{{}}\d]*\}}\s*[:=])\s*(?=\S)", re.IGNORECASE
)
_BARE_LEAD = re.compile(  # `The answer is`, `Area:`
    r"(?:(?:[A-Za-z][A-Za-z'-]*[ ,]+)*(?:is|are|equals|be|equal to|total of|have|get|gives)[ :]+"
    r"|(?:[A-Za-z][A-Za-z'-]* )*[A-Za-z'-]{2,} ?: ?)(?=[^\sA-Za-z]|[A-Za-z](?![A-Za-z]))|there (?:is|are) (?=\d)",
    re.IGNORECASE,
)
_OTHER_LEAD = re.compile(  # `答案是`
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]*(?:[是为為は有共得第]|:)[ :]*(?=[^\u3040-\u9fff\uac00-\ud7af])"
)
_POINT = re.compile(r"[A-Z](?=\([^()]*,[^()]*\)$)")  # `A(1, 2)`
_CONSEQUENCE = re.compile(r".*\\(?:implies|therefore|[Rr]ightarrow|Longrightarrow|iff)(?![A-Za-z])\s*(?=\S)")
_DENIES = re.compile(
    r"[不非]|\b(?:not|no|least|most|more|less|fewer|than|about|approximately|approx|nearly|roughly|between|over|under|above"
    r"|below)\b",
    re.IGNORECASE,
)
_SETS = {  # in words, the whole answer
    re.compile(r"all (?:real numbers|reals)", re.IGNORECASE): r"\\mathbb{R}",
    re.compile(
        r"all (?:real numbers|reals) (?:except|other than)(?: for)?\s*(.+)", re.IGNORECASE
    ): r"\\mathbb{R}\\setminus\\{\1\\}",
    re.compile(r"all integers", re.IGNORECASE): r"\\mathbb{Z}",
    re.compile(r"(?:there (?:is|are) )?no (?:real )?solutions?|(?:the )?empty set", re.IGNORECASE): r"\\emptyset",
}
# Behind a value.
_FOR = (
    r"for(?: all| any| every| each| some)?|where|when|whenever|if|with|provided|such that|as long as|on"
    r"|attained|achieved|reached"
)
_WORDS_BEHIND = re.compile(
    rf"[\s,;(]*(?:\\text\s*\{{[\s,(]*(?:{_FOR})\b|(?<![A-Za-z\\])(?:{_FOR})(?![A-Za-z])|\\forall(?![A-Za-z]))"
)
_MORE_CASES = re.compile(r"(?<![A-Za-z])(?:if|when|for|otherwise|else|or)(?![A-Za-z])|;")
_INTEGER_BEHIND = re.compile(  # `k \text{ an integer}`
    r"[\s,;(]+([A-Za-z](?:\s*,\s*[A-Za-z])*\s*\\text\s*\{\s*(?:is|are|any|an?)\b[^{}]*integers?)\s*\}\s*\)?$"
)
_RUNS_BEHIND = re.compile(r"[\s,;(]+([A-Za-z]\s*=[^=]*\.\.\.)\s*\)?$")  # `k = 0, 1, \dots`
_SET_OF_MULTIPLES = re.compile(r"\\\{(.+?)[:|]\s*([A-Za-z]\s*\\in\s*\\mathbb\{[ZN]\}[^{}]*)\\\}")
_MODULUS = re.compile(  # `\pmod{7}`, `\text{ (mod 7)}`
    r"[\s,]*(?:\(\s*)?(?:\\pmod|\\text\s*\{\s*\(?\s*mod(?:ulo)?|(?<![A-Za-z\\])mod(?:ulo)?(?![A-Za-z]))"
    r"\s*\}?\s*\{?\s*([\w^]+)\s*\}?\s*\)?\s*\}?\s*\)?$"
)
_LETTERS = r"[A-Za-z](?:_\w)?(?:\s*,\s*[A-Za-z](?:_\w)?)*"
_RANGE = re.compile(  # `, k \in \mathbb{Z}`, ` (n \ge 1)`, `, 0 < x < 1`
    rf"(?:\s*[,;]\s*\(?|\s+\(|\s*\()\s*((?:\d\s*(?:\\le|<)\s*)?{_LETTERS}\s*"
    r"(?:(?:\\in|\\notin|\\ge|\\le|\\ne)(?![A-Za-z])|[<>])[^,;]*?)\)?$"
)


def drop_lead(text: str) -> str:
    r"""Take away what a value is called.

    Args:
        text: An answer: ``\text{Area: } 5``, ``The answer is 5``, ``答案是 5``.

    Returns:
        The value. Words that deny or weaken it (``not``, ``at least``, ``about``) stay, and it is then no plain value.
    """
    text = re.sub(r"\s*(?:\\text\s*\{\s*)?\bis (?:the|our|my) (?:final |correct )?answer(?:\s*\})?$", "", text)
    for pattern in (_CONSEQUENCE, _MARKED_LEAD, _BARE_LEAD, _OTHER_LEAD, _POINT):
        found = pattern.match(text)
        if found and not _DENIES.search(found.group()):
            text = text[found.end() :]
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()
    return next((pattern.sub(latex, bare) for pattern, latex in _SETS.items() if pattern.fullmatch(bare)), text)


def split_condition(text: str) -> tuple[str, str]:
    r"""Take a condition off the end of an answer: ``k \in \mathbb{Z}``, ``\text{for all } n``, ``n \ge 1``, ``\pmod 7``.

    Several cases (``3 \text{ if } a, 5 \text{ if } b``) are not a value with a condition; they stay whole.

    Args:
        text: An answer.

    Returns:
        The answer without its condition, and the condition: ``mod 7``, a relation, or empty for words.
    """
    found = _MODULUS.search(text)
    if found and found.start() > 0:
        return text[: found.start()].rstrip(" ("), f"mod {found[1]}"
    built = _SET_OF_MULTIPLES.fullmatch(text)
    if built:
        return built[1].strip(), built[2].strip()
    found = _WORDS_BEHIND.search(text) if r"\begin" not in text else None
    if found and found.start() > 0 and re.search(r"[\d\\]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])", text[: found.start()]):
        if not _MORE_CASES.search(text, found.end()):
            return text[: found.start()].rstrip(" ,;("), text[found.end() :].lstrip("} ")
        return text, ""
    for pattern in (_INTEGER_BEHIND, _RUNS_BEHIND):
        found = pattern.search(text)
        if found and found.start() > 0:
            return text[: found.start()], found[1]
    conditions: list[str] = []
    while (found := _RANGE.search(text)) and found.start() > 0:
        head = text[: found.start()]
        if re.match(r"[A-Za-z]\s*\\in(?![A-Za-z])", head):
            break
        variables = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z]", found[1]))
        if variables.isdisjoint(re.findall(r"\\[A-Za-z]+|[A-Za-z]", head)):
            break
        if re.search(r"\\(?:ge|le|ne|notin)(?![A-Za-z])|[<>]", head) or head.count("(") != head.count(")"):
            break
        text, conditions = head.rstrip(), [found[1].strip(), *conditions]
    return text, ", ".join(conditions)
