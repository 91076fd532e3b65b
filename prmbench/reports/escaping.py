"""Text of unknown origin in what is published: one function for each medium.

Names, subsets, ids and kinds come from files that anybody may have written. For a terminal the function is
`prmbench.errors.printable`.
"""

from __future__ import annotations

from markupsafe import Markup

from prmbench.errors import printable

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}
_MARKDOWN = {"<": "&lt;", ">": "&gt;"} | {character: f"\\{character}" for character in "\\`*_[]|"}


def one_line(text: str) -> str:
    """Put a text on one line, without characters that a terminal or a reader would act on.

    Args:
        text: The text.
    """
    return printable(" ".join(text.split()))


def for_markdown(text: str) -> str:
    """Write a text for a Markdown table: no markup, no second column, one line.

    Args:
        text: The text.
    """
    return "".join(_MARKDOWN.get(character, character) for character in one_line(text))


def for_html(value: object) -> object:
    """Take control characters out of a text; newlines stay. jinja2 escapes the rest (`prmbench.reports.pages.environment`).

    Args:
        value: What a template shows. Markup made here, such as a picture, and what is no text stays as it is.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def for_latex(text: str) -> str:
    """Write a text for a cell of a LaTeX table: no command, one line. In a comment, `one_line` is enough.

    Args:
        text: The text.
    """
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def for_csv(text: str) -> str:
    """Write a text for a cell of a CSV file. What a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        text: The text.
    """
    line = one_line(text)
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line
