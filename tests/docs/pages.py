"""The pages of the project and the fenced blocks in them.

A block is marked by a comment in the line before its fence:

- ``<!-- file: NAME -->``: the block is written to NAME, in the folder in which the page's commands run.
- ``<!-- not run: REASON -->``: the block is not run. Its commands must still exist, with all their options.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"docs/entry.md", "docs/recipe-keys.md", "leaderboards/leaderboard.md"}
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "tasks/**/*.md", "training/**/*.md", "leaderboards/*.md")
    for path in ROOT.glob(pattern)
    if str(path.relative_to(ROOT)) not in GENERATED
)
SHELL = ("", "bash", "sh", "shell", "console")

_BLOCK = re.compile(
    r"(?P<marks>(?:^<!--[^\n]*-->\n)*)^(?P<fence>```+)(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_INLINE = re.compile(r"(?<!`)`(prmbench [^`\n]+)`(?!`)")
_MARK = re.compile(r"<!-- (file|not run): (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Path of the page, relative to the repository.
        line: Number of the line that the fence is in, from 1.
        language: What the fence says; empty where it says nothing.
        text: What is between the fences.
        file: Name of the file it is written to; None: to none.
        not_run: Why it is not run; None: it is.
        span: Positions in the page's text between which `text` stands.
    """

    page: str
    line: int
    language: str
    text: str
    file: str | None
    not_run: str | None
    span: tuple[int, int]

    def commands(self) -> list[tuple[str, str]]:
        """Return (command, what the page says it prints) of a block of a shell; without ``$`` lines nothing is printed."""
        text = self.text.replace("\\\n", " ")
        if self.language != "console":
            return [(line.strip(), "") for line in text.split("\n") if line.strip() and not line.startswith("#")]
        found = re.split(r"^\$ ", text, flags=re.MULTILINE)
        assert not found[0], f"{self.page}:{self.line}: a console block begins with a command, '$ ...'"
        return [(command, printed) for command, _, printed in (part.partition("\n") for part in found[1:])]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        marks = dict(_MARK.findall(match["marks"]))
        line = text.count("\n", 0, match.start("fence")) + 1
        language = match["language"]
        found.append(
            Block(page, line, language, match["text"], marks.get("file"), marks.get("not run"), match.span("text"))
        )
    return found


def inline_commands(page: str) -> list[str]:
    """Commands of ours that a page names inside a sentence or a table."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return _INLINE.findall(text)


def words(command: str) -> list[str]:
    """The words of a command, as a shell splits them; what follows ``#`` is left out."""
    return shlex.split(command, comments=True)
