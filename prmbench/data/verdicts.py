"""The verdict on a completion's answer."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What became of one completion."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """Nothing that the style asks for was found in the completion."""
    TIMEOUT = "timeout"
    """The comparison overran its time or its memory, or killed its process twice."""
