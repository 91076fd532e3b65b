"""Characters outside ASCII in their LaTeX spelling: symbols, raised and lowered digits, fractions, roots, full-width forms."""

from __future__ import annotations

import re
import unicodedata

# Before NFKC, which would turn some of these into plain letters, digits or spaces.
_SYMBOLS = {
    ord(character): latex
    for latex, characters in {
        "-": "−–—‐‑‒",
        r"\times ": "×",
        r"\cdot ": "·⋅∙•∗",
        r"\infty ": "∞",
        r"\le ": "≤⩽≦",
        r"\ge ": "≥⩾≧",
        r"\ne ": "≠",
        r"\approx ": "≈≃≅",
        r"\equiv ": "≡",
        r"\pm ": "±",
        r"\mp ": "∓",
        r"\in ": "∈",
        r"\notin ": "∉",
        r"\cup ": "∪",
        r"\cap ": "∩",
        r"\setminus ": "∖",
        r"\emptyset ": "∅⌀",
        r"\mathbb{R}": "ℝ",
        r"\mathbb{Z}": "ℤ",
        r"\mathbb{N}": "ℕ",
        r"\mathbb{Q}": "ℚ",
        r"\mathbb{C}": "ℂ",
        r"^\circ ": "°º˚",
        r"^\circ \text{C}": "℃",
        r"\%": "％",
        "/": "÷⁄∕",
        r"\lfloor ": "⌊",
        r"\rfloor ": "⌋",
        r"\lceil ": "⌈",
        r"\rceil ": "⌉",
        r"\angle ": "∠",
        r"\ldots ": "…",
        "'": "′’",
        ".": "。",
        ",": "、",
        "": "€£¥¢₹₩￥\u200b\u200c\u200d\u2060\ufeff",
    }.items()
    for character in characters
}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ", "0123456789+-nk")
_ROOT = re.compile(r"([√∛])\s*(?:\{([^{}]*)\}|\(((?:[^()]|\([^()]*\))*)\)|(\d+(?:\.\d+)?|\\?[A-Za-z]+))")
_POWER_OF_UNIT = re.compile("(?<![A-Za-z/\\\\])([cdkm]?m|ft|in|yd|mi)([²³])")
_GREEK = re.compile("[α-ωΓΔΘΛΞΠΣΦΨΩϕϑϵ]")


def to_latex(text: str) -> str:
    r"""Write a text in ASCII and LaTeX commands, as far as mathematics goes; letters of other languages stay.

    Args:
        text: An answer.

    Returns:
        The same mathematics: ``x²`` as ``x^{2}``, ``½`` as ``\frac{1}{2}``, ``√3`` as ``\sqrt{3}``, ``３`` as ``3``.
    """
    if text.isascii():
        return text
    text = _POWER_OF_UNIT.sub(r"\\text{\1}\2", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda m: rf"\frac{{{unicodedata.normalize('NFKC', m[0]).replace('⁄', '}{')}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS)).translate(_SYMBOLS)
    text = _GREEK.sub(_greek, text)
    text = re.sub(r"[^\x00-\x7f]", lambda m: str(unicodedata.decimal(m[0], m[0])), text)
    return _ROOT.sub(lambda m: (r"\sqrt[3]" if m[1] == "∛" else r"\sqrt") + f"{{{m[2] or m[3] or m[4]}}}", text)


def _greek(found: re.Match[str]) -> str:
    """``α`` is named GREEK SMALL LETTER ALPHA, ``ϕ`` GREEK PHI SYMBOL."""
    words = unicodedata.name(found[0]).removesuffix(" SYMBOL").split()
    name = words[-1].replace("LAMDA", "LAMBDA")
    return f"\\{name.capitalize() if 'CAPITAL' in words else name.lower()} "
