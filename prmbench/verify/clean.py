r"""Text rules that are applied to gold and answer alike before anything is compared (docs/verification.md).

They take away what does not change an answer (dollar signs, fonts, spacing, units, the prose around a value) and rewrite
what math-verify would misread (``1e-5`` is -5 + e to it, ``12 345`` is 357, ``\frac \pi4`` an error). What is left is LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from prmbench.verify.characters import to_latex
from prmbench.verify.extract import matching_braces
from prmbench.verify.numbers import SURE_COMMA, rewrite_numbers
from prmbench.verify.prose import drop_lead, split_condition
from prmbench.verify.units import split_unit


class Cleaned(NamedTuple):
    r"""An answer without what surrounds its value.

    Attributes:
        body: The value, as LaTeX.
        unit: Canonical name of its unit; empty where there is none, or none that we know.
        condition: For which values it holds (``k \in \mathbb{Z}``, ``mod 7``); empty where nothing was said.
    """

    body: str
    unit: str
    condition: str = ""


_COMMANDS = {
    name: latex
    for latex, names in {
        r"\text": "textbf textit textrm textup texttt textsc textsf textsl textmd textnormal mbox hbox emph",
        r"\frac": "dfrac tfrac cfrac",
        r"\binom": "dbinom tbinom",
        r"\le ": "leq leqq leqslant",
        r"\ge ": "geq geqq geqslant",
        r"\ne ": "neq",
        "<": "lt",
        ">": "gt",
        r"\emptyset ": "varnothing",
        "|": "vert lvert rvert mid",
        ":": "colon",
        "^\\circ ": "degree",
        r"\{": "lbrace",
        r"\}": "rbrace",
        r"\setminus ": "backslash smallsetminus",
        " and ": "land wedge",
        " or ": "lor vee",
        r"\pmod ": "mod bmod",
        r"\log ": "lg",
        "i": "imath",
        "...": "dots ldots cdots",
        " ": "quad qquad enspace space thinspace medspace thickspace nobreakspace",
        "": "displaystyle textstyle scriptstyle limits nolimits strut mathstrut mathop mathrel mathord normalsize small tiny "
        "large Large LARGE huge Huge underline ensuremath boxed fbox left right mleft mright middle big Big bigg Bigg bigl bigr "
        "Bigl Bigr biggl biggr Biggl Biggr",
        **{f"\\{name} ": f"var{name}" for name in ("phi", "epsilon", "theta", "rho", "sigma", "pi")},
    }.items()
    for name in names.split()
}
"""Commands by another name: fonts of words, delimiters, relations; those that change only the looks have none."""
_COMMAND = re.compile(r"\\(?:m?left|m?right)\s*\.|\\([A-Za-z]+)\s*")
_LOOKS = re.compile(
    r"\\(?:(?:text)?color|colorbox|style|class|tag|label|h?phantom|[hv]space)\*?\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}"
    r"|\\bbox\s*(?:\[[^\[\]]*\])?"
)
_DELIMITERS = re.compile(r"\\\$|(?<!\\)\$|(?<!\\)\\[()]|^\s*\\\[|\\\]\s*$|^[`*_\s]+|[`*_\s]+$")
_SPACING = re.compile(r"(?<!\\)\\[,;:> ]|~|\s+|\\!\s*")
_MATH_FONT = (
    r"\\(?:(?:rm|bf|it|sf|tt)(?=\s*\{)|math(?:rm|bf|it|sf|tt|normal)|operatorname\*?|boldsymbol|bm|pmb)(?![A-Za-z])\s*"
)
_DECLARED_FONT = r"\\(?:rm|bf|it|sf|tt|sc|em)(?![A-Za-z])"
_FUNCTIONS = (
    "arcsin|arccos|arctan|arccot|arcsec|arccsc|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|gcd|lcm|min|max"
)


Replacement = str | Callable[[re.Match[str]], str]


def _rules(*rules: tuple[str, Replacement]) -> list[tuple[re.Pattern[str], Replacement]]:
    return [(re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in rules]


_RULES_FOR_COMMANDS = _rules(
    # fonts: `\text` marks words, all else is mathematics
    (r"(?<=[A-Za-z])\^\{(-?\d)\}(?=[^{}]*\})", r"^\1"),
    (rf"\{{\s*{_DECLARED_FONT}\s*([A-Za-z][A-Za-z .]+)\}}", r"\\text{\1}"),
    (rf"{_MATH_FONT}\{{\s*([ied])\s*\}}", r"\1"),
    (rf"{_MATH_FONT}\{{\s*([A-Za-z][^{{}}\\]*|\d[\d.,/ ]*[A-Za-z][^{{}}\\]*)\}}", r"\\text{\1}"),
    (rf"{_MATH_FONT}(?=[\w{{\\])|{_DECLARED_FONT}", ""),
    # text that is mathematics
    (rf"\\text\s*\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
    (r"\\text\s*\{\s*(?:[.,;]?\s*\}|([-+]?[\d.][^{}A-Za-z]*)\})", r"\1"),
    (r"\s*,?\s*\\text\s*\{[\s,]*(and|or)\s*\}\s*", r" \1 "),
    # one spelling
    (r"\{?\s*([\w+-]+)\s*\\choose\s*([\w+-]+)\s*\}?", r"\\binom{\1}{\2}"),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (r"(?<=[}\])])\s*-\s*(?=\\\{)", r"\\setminus "),
    (r"\\(?:Bbb|mathds|mathbb)\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}"),
    (r"\\mathbb\{R\}\s*(?:\^\s*\{?\s*\+\s*\}?|_\s*\{\s*>\s*0\s*\})", r"(0,\\infty)"),
    (r"\\mathbb\{R\}\s*_\s*\{\s*\\ge\s*0\s*\}", r"[0,\\infty)"),
    (r"^(?:([A-Za-z])\s*:\s*)?([A-Za-z])\s*\\mapsto(?![A-Za-z])", lambda m: f"{m[1] or 'f'}({m[2]})="),
    (r"\\log\s*_\s*\{?\s*e\s*\}?(?![A-Za-z])", r"\\ln "),
    (r"\\\\\s*\[[^\[\]]*\]", r"\\\\"),
    (r"[(\[]?\s*\\begin\{array\}\s*\{[^{}]*\}(.*)\\end\{array\}\s*[)\]]?", r"\\begin{pmatrix}\1\\end{pmatrix}"),
    (r"[(\[]?\s*\\begin\{[bBp]?matrix\}(.*)\\end\{[bBp]?matrix\}\s*[)\]]?", r"\\begin{pmatrix}\1\\end{pmatrix}"),
)
_RULES = _rules(
    (r"\^\s*(?:\{\s*(?:\\text\s*\{)?\s*o\s*\}+|o(?![A-Za-z]))", r"^\\circ "),
    (rf"(?<![A-Za-z\\])(?:np\.|math\.)?({_FUNCTIONS})(?=\s*[\d(\\])", r"\\\1 "),
    (r"(?<![A-Za-z\\])(?:np\.|math\.)?(sqrt|pi)(?![A-Za-z])", r"\\\1 "),
    (r"\\sqrt\s*\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"(?<=\s)!=", r"\\ne "),
    (r"\*\*", "^"),
    (r"(?<=[\w})])\{\s*\}", ""),
    (r"\s*(?:\\text\s*\{\s*)?(?:\{?\\?%\}?|\bper ?cent(?:age)?(?: points?)?|\bpct)\.?(?:\s*\})?$", r"\\%"),
    (r"^\(?(-?\d+(?:\.\d+)?)\)?\s*_\s*(?:\{\s*10\s*\}|10)$", r"\1"),
)
_DEGREE = r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))"
_MONEY_OR_ANGLE = re.compile(
    rf"\s*\$?\s*(?:\\\$)?\s*(-?\d+(?:\.\d+)?|-?[1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?)({_DEGREE})?\s*\$?\s*\.?"
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_ANGLE = re.compile(
    rf"(\d+(?:\.\d+)?|\\?[A-Za-z]+|\([^()]*\)|\{{[^{{}}]*\}})(?:{_DEGREE}|\s*\\text\s*\{{\s*degrees?\s*\}})"
)
_BARE_WORDS = re.compile(
    r"\(?[A-Z]\)?(?:\s*(?:,|&|\band\b)\s*\(?[A-Z]\)?)*|(?=(?:\W*[^\W\d_]){4})[^\W\d_]{2,}(?:[\s.-]+[^\W\d_]{2,})*"
)


@lru_cache(maxsize=8192)
def clean(text: str) -> Cleaned:
    r"""Apply the text rules.

    The result is cached, because one gold meets many answers; callers cap the length.

    Args:
        text: An answer as written.

    Returns:
        Its value, unit and condition.

    >>> clean(r"$864 \mbox{ inches}^2$.")
    Cleaned(body='864', unit='in', condition='')
    """
    text = to_latex(text)
    plain = _MONEY_OR_ANGLE.fullmatch(text)
    if plain:  # most answers that are no plain numbers to begin with
        return Cleaned(plain[1].replace(",", ""), "deg" if plain[2] else "")
    text = _one_spelling(text)
    text, condition = split_condition(drop_lead(text))
    if _TRIGONOMETRY.search(text):
        text = _ANGLE.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text, unit = split_unit(text)
    text, degrees = re.subn(_DEGREE, "", text)
    unit = unit or ("deg" if degrees else "")
    return Cleaned(_without_braces(rewrite_numbers(_brace_arguments(text))), unit, condition)


def _one_spelling(text: str) -> str:
    text = _DELIMITERS.sub("", SURE_COMMA.sub("", text))
    text = _SPACING.sub(lambda m: "" if m[0].startswith("\\!") else " ", text)
    text = text if r"\begin" in text else re.sub(r"\\?&", ",", text)
    if "\\" in text:
        text = _COMMAND.sub(lambda m: _COMMANDS.get(m[1], m[0]) if m[1] else "", _LOOKS.sub("", text))
        for pattern, replacement in _RULES_FOR_COMMANDS:
            text = pattern.sub(replacement, text)
    text = _without_braces(text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    whole = re.fullmatch(r"\s*\\text\s*\{([^{}\\]*)\}[.\s]*", text)
    if whole and not re.match(r"\s*[-+.\d]", whole[1]):
        return rf"\text{{{whole[1].strip().removesuffix('.')}}}"
    text = (whole[1] if whole else text).strip()
    return text if text.endswith("..") else text.rstrip(".,;: ")


def _without_braces(text: str) -> str:
    """Take away braces around the whole."""
    text = text.strip()
    while text.startswith("{") and matching_braces(text).get(0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def key(body: str) -> str:
    r"""Write an answer so that equal texts are equal strings.

    Args:
        body: A cleaned answer.

    Returns:
        The answer without spacing, except between two digits, and without needless braces.
    """
    body = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", body)
    body = re.sub(r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2", body)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", body)


def word(body: str, *, marked: bool = False) -> str | None:
    r"""Read an answer in words: ``\text{June 20}``, ``(B)``, ``A, C and F``.

    Letters in ``\text{}`` are a word at any length; bare ones from four letters on (``abc`` may be a product), or as a
    single capital (a choice).

    Args:
        body: A cleaned answer.
        marked: Whether bare letters are a word at any length.

    Returns:
        The canonical form, in which case, spaces, full stops, brackets and the order of a list do not count; None for
        mathematics.
    """
    inner = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", body).strip()
    if not re.fullmatch(r"(?!-)[\w\s().,:;'&-]*", inner) or not re.search(r"[^\W\d_]", inner):
        return None
    if not marked and inner == body and not _BARE_WORDS.fullmatch(inner):
        return None
    parts = [re.sub(r"[\s.()'-]", "", part) for part in re.split(r"[,;&]|\band\b", inner.casefold())]
    if any(re.match(r"\d", part) for part in parts):
        return None
    return ",".join(sorted(filter(None, parts))) or None


def _brace_arguments(text: str) -> str:
    r"""Put braces around arguments of one token: ``\frac12``, ``\frac \pi4``, ``\sqrt 2``."""
    closed = matching_braces(text)
    token = re.compile(r"\s*(?:(?P<open>\{)|(?P<token>\\[A-Za-z]+|[A-Za-z0-9]))")
    inserts: list[tuple[int, str]] = []
    for found in re.finditer(r"\\(frac|binom|sqrt(?!\s*\[))(?![A-Za-z])", text):
        at = found.end()
        for _ in range(1 if found[1] == "sqrt" else 2):
            argument = token.match(text, at)
            if argument is None:
                break
            if argument["open"]:
                at = closed.get(argument.start("open"), len(text)) + 1
            else:
                inserts += [(argument.start("token"), "{"), (argument.end("token"), "}")]
                at = argument.end("token")
    pieces, at = [], 0
    for place, brace in sorted(inserts, key=lambda item: item[0]):
        pieces += [text[at:place], brace]
        at = place
    return "".join([*pieces, text[at:]])
