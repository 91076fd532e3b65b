r"""Is a completion's answer the problem's answer? Verdicts by rules and by math-verify (docs/verification.md).

    from prmbench.verify import verify
    verify([r"... so it is \boxed{\frac{1}{2}}"], ["0.5"])     # [Verdict.CORRECT]

Answers that are equal as text, plain numbers and words are decided here; all others by math-verify, in worker processes
that are killed when they overrun. This package imports neither torch nor math-verify.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import TracebackType

from prmbench.data.verdicts import Verdict
from prmbench.verify.easy import decide
from prmbench.verify.extract import STYLES, AnswerStyle, extract_answer
from prmbench.verify.pool import Pool

__all__ = ["AnswerStyle", "Verdict", "Verifier", "extract_answer", "verifier_version", "verify"]

_VERSION = 1  # raise it with every change that can change a verdict


class Verifier:
    """Verifies in batches, keeping its worker processes alive between calls; a context manager.

    No process is started before an answer needs one. Not for use by several threads at once.

    Args:
        timeout: seconds for one answer, in a worker that is ready; no start-up time counts.
        workers: processes. The verdicts do not depend on it.
        memory_mb: how much a worker may grow (Linux).

    Raises:
        ValueError: an argument that is not positive.
    """

    def __init__(self, *, timeout: float = 2.0, workers: int = 2, memory_mb: int = 1024) -> None:
        for name, value in (("timeout", timeout), ("workers", workers), ("memory_mb", memory_mb)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self._pool = Pool(timeout, workers, memory_mb)

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive now; empty until an answer needed one."""
        return self._pool.pids()

    def verify(
        self,
        completions: Sequence[str],
        golds: Sequence[str],
        *,
        style: AnswerStyle = "boxed",
        on_done: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        """Return one verdict a completion, in their order.

        Args:
            completions: whole completions; the answer is extracted as `style` says.
            golds: per completion, its problem's answer, written as its source has it. LaTeX or plain.
            on_done: called with the number of verdicts that have just become known (for a progress bar).

        Raises:
            ValueError: the lengths differ, an unknown style, or a blank gold.
        """
        if len(completions) != len(golds):
            raise ValueError(f"{len(completions)} completions but {len(golds)} gold answers: expected one each")
        if style not in STYLES:
            raise ValueError(f"unknown answer style {style!r}: expected one of {', '.join(STYLES)}")
        blank = next((i for i, gold in enumerate(golds) if not gold.strip()), None)
        if blank is not None:
            raise ValueError(f"gold answer {blank} is blank: a completion cannot be verified against it")
        report = on_done or (lambda _: None)
        verdicts = [Verdict.UNPARSED] * len(completions)
        hard: dict[tuple[str, str], list[int]] = {}  # equal pairs (samples of one problem) are compared once
        for i, (completion, gold) in enumerate(zip(completions, golds, strict=True)):
            answer = extract_answer(completion, style)
            equal = None if answer is None else decide(gold, answer)
            if answer is not None and equal is None:
                hard.setdefault((gold, answer), []).append(i)
                continue
            if equal is not None:
                verdicts[i] = _verdict(equal)
            report(1)
        pairs = list(hard)
        outcomes = self._pool.run(pairs, lambda job: report(len(hard[pairs[job]])))
        for pair, outcome in zip(pairs, outcomes, strict=True):
            for i in hard[pair]:
                verdicts[i] = _verdict(outcome)
        return verdicts


def verify(
    completions: Sequence[str],
    golds: Sequence[str],
    *,
    style: AnswerStyle = "boxed",
    timeout: float = 2.0,
    workers: int = 2,
    memory_mb: int = 1024,
    on_done: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Verify one batch: `Verifier.verify` with processes of its own. The arguments are those of `Verifier`."""
    with Verifier(timeout=timeout, workers=workers, memory_mb=memory_mb) as verifier:
        return verifier.verify(completions, golds, style=style, on_done=on_done)


def verifier_version() -> str:
    """What a verdict depends on besides its inputs: our own version and the libraries'. Part of a policy's fingerprint."""
    libraries = [f"{name} {version(name)}" for name in ("math-verify", "latex2sympy2_extended")]
    return "; ".join([f"prmbench {_VERSION}", *libraries])


def _verdict(equal: bool | None) -> Verdict:
    return Verdict.TIMEOUT if equal is None else Verdict.CORRECT if equal else Verdict.WRONG
