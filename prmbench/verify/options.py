"""Conventions of the verifier: what a verdict depends on besides the completion and the gold answer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

from prmbench.errors import ArgumentError

VERSION = 3
"""Our own version. It goes up with every change that can change a verdict."""

Convention = Literal["strict", "paper"]


@dataclass(frozen=True)
class VerifierOptions:
    """Conventions that verdicts follow. They are part of the verifier's version, and so of a policy entry's fingerprint.

    Attributes:
        name: ``strict`` judges the last answer that the completion states, by the rules of docs/verification.md.
            ``paper`` gives the whole completion to math-verify with its default settings, as the paper's release does;
            the other options then have no effect.
        tolerance: Largest difference, as a share of the gold answer, at which a number written with a decimal point still
            equals it; 0 asks for exact equality. None asks for the same six decimals and a share of at most 1/10,000.
        think: Whether an answer inside ``<think>...</think>`` counts when it is the last one.

    Raises:
        ArgumentError: An unknown name, or a tolerance below 0 or not below 1.
    """

    name: Convention = "strict"
    tolerance: float | None = None
    think: bool = True

    def __post_init__(self) -> None:
        if self.name not in get_args(Convention):
            raise ArgumentError("name", self.name, f"expected one of {', '.join(get_args(Convention))}")
        if self.tolerance is not None and not 0 <= self.tolerance < 1:
            raise ArgumentError("tolerance", self.tolerance, "expected a share from 0 to below 1")

    def __str__(self) -> str:
        """The convention's name, and the options that differ from their defaults, as `parse` reads them."""
        if self.name == "paper":
            return self.name
        changed = [f"tolerance={self.tolerance!r}"] if self.tolerance is not None else []
        return ",".join([self.name, *changed, *([] if self.think else ["think=false"])])

    @classmethod
    def parse(cls, text: str) -> VerifierOptions:
        """Read what `str` writes: a name, and options behind it, such as ``strict,tolerance=0.01,think=false``.

        Args:
            text: The conventions.

        Raises:
            ArgumentError: Another name, an unknown option, or a value that it cannot have.
        """
        name, *options = (part.strip() for part in text.split(","))
        found: dict[str, Any] = {}
        try:
            for option in options:
                key, _, value = (part.strip() for part in option.partition("="))
                found[key] = (
                    float(value) if key == "tolerance" else {"think=true": True, "think=false": False}[f"{key}={value}"]
                )
            return cls(name, **found)  # type: ignore[arg-type]
        except (ArgumentError, KeyError, ValueError):
            known = (
                "strict, paper, or strict with options: strict,tolerance=0.01,think=false (tolerance from 0 to below 1)"
            )
            raise ArgumentError("verifier", text, f"expected {known}") from None


def verifier_version(options: VerifierOptions | None = None) -> str:
    """Name what a verdict depends on besides its inputs. It is part of a policy's fingerprint.

    Args:
        options: The conventions; None means the defaults.

    Returns:
        Our own version with the convention, and the versions of the libraries that compare expressions.
    """
    libraries = [f"{name} {version(name)}" for name in ("math-verify", "latex2sympy2_extended")]
    return "; ".join([f"prmbench {VERSION} {options or VerifierOptions()}", *libraries])


def recorded_options(recorded: str) -> VerifierOptions:
    """Read the conventions back from what `verifier_version` made.

    Args:
        recorded: The verifier of a run, which may be of an older version; such a run had the defaults.
    """
    words = recorded.partition(";")[0].split(" ", 2)
    return VerifierOptions.parse(words[2]) if len(words) == 3 else VerifierOptions()
