r"""Is a completion's answer the problem's answer? Verdicts by rules and by math-verify (docs/verification.md).

    from prmbench.verify import verify
    verify([r"... so it is \boxed{\frac{1}{2}}"], ["0.5"])     # [Verdict.CORRECT]

Answers that are equal as text, plain numbers, words and lists of these are decided here; all others by math-verify, in worker
processes that are killed when they overrun. This package imports neither torch nor math-verify.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from prmbench.data.prompts import AnswerStyle
from prmbench.data.verdicts import Verdict
from prmbench.errors import ArgumentError
from prmbench.verify.decide import EqualityOptions, decide
from prmbench.verify.extract import STYLES, extract_answer, read_gold
from prmbench.verify.options import VerifierOptions, verifier_version
from prmbench.verify.pool import Job, Pool

__all__ = ["AnswerStyle", "Verdict", "Verifier", "VerifierOptions", "extract_answer", "verifier_version", "verify"]


class Verifier:
    """Verifies in batches, keeping its worker processes alive between calls; a context manager.

    No process is started before an answer needs one. Not for use by several threads at once.

    Attributes:
        options: The conventions that its verdicts follow.
    """

    def __init__(
        self, options: VerifierOptions | None = None, *, timeout: float = 2.0, workers: int = 2, memory_mb: int = 1024
    ) -> None:
        """Set the limits.

        Args:
            options: The conventions that verdicts follow; None means the defaults.
            timeout: Seconds for one answer, in a worker that is ready; no start-up time counts.
            workers: Number of processes. The verdicts do not depend on it.
            memory_mb: How much a worker may grow (Linux).

        Raises:
            ArgumentError: A limit that is not positive.
        """
        for name, value in (("timeout", timeout), ("workers", workers), ("memory_mb", memory_mb)):
            if not value > 0:
                raise ArgumentError(name, value, "must be positive")
        self.options = options or VerifierOptions()
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
        """Judge completions.

        Args:
            completions: Whole completions; the answer is extracted as `style` says.
            golds: Of each completion, its problem's answer, written as its source has it: LaTeX, plain text, or a whole
                solution that ends with ``#### 18`` or a box.
            style: Where the answers are (see `extract_answer`).
            on_done: Called with the number of verdicts that have just become known (for a progress bar).

        Returns:
            One verdict a completion, in their order.

        Raises:
            ArgumentError: The lengths differ, an unknown style, or a blank gold.
        """
        if len(completions) != len(golds):
            problem = f"{len(completions)} completions but {len(golds)} gold answers; expected one each"
            raise ArgumentError("golds", None, problem)
        if style not in STYLES:
            raise ArgumentError("style", style, f"unknown answer style; expected one of {', '.join(STYLES)}")
        read = {gold: read_gold(gold) for gold in set(golds)}
        blank = next((i for i, gold in enumerate(golds) if not read[gold]), None)
        if blank is not None:
            raise ArgumentError(
                "golds", None, f"gold answer {blank} is blank; a completion cannot be verified against it"
            )
        report = on_done or (lambda _: None)
        verdicts = [Verdict.UNPARSED] * len(completions)
        hard: dict[Job, list[int]] = {}  # equal pairs (samples of one problem) are compared once
        for i, (completion, gold) in enumerate(zip(completions, golds, strict=True)):
            if self.options.name == "paper":
                hard.setdefault(("paper", read[gold], completion), []).append(i)
                continue
            answer = extract_answer(completion, style, think=self.options.think)
            equal = (
                None
                if answer is None
                else decide(read[gold], answer, EqualityOptions(tolerance=self.options.tolerance))
            )
            if answer is not None and equal is None:
                hard.setdefault(("equal", read[gold], answer, self.options.tolerance), []).append(i)
                continue
            if equal is not None:
                verdicts[i] = _verdict(equal)
            report(1)
        jobs = list(hard)
        outcomes = self._pool.run(jobs, lambda job: report(len(hard[jobs[job]])))
        for job, outcome in zip(jobs, outcomes, strict=True):
            for i in hard[job]:
                verdicts[i] = _verdict(outcome)
        return verdicts

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Do other jobs in the workers.

        Args:
            jobs: See `Pool.run`.

        Returns:
            Their outcomes; None where a limit was hit.
        """
        return self._pool.run(jobs)


def verify(
    completions: Sequence[str],
    golds: Sequence[str],
    *,
    style: AnswerStyle = "boxed",
    options: VerifierOptions | None = None,
    timeout: float = 2.0,
    workers: int = 2,
    memory_mb: int = 1024,
    on_done: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Judge one batch with worker processes of its own.

    Args:
        completions: See `Verifier.verify`.
        golds: See `Verifier.verify`.
        style: See `Verifier.verify`.
        options: See `Verifier`.
        timeout: See `Verifier`.
        workers: See `Verifier`.
        memory_mb: See `Verifier`.
        on_done: See `Verifier.verify`.

    Returns:
        One verdict a completion, in their order.
    """
    with Verifier(options, timeout=timeout, workers=workers, memory_mb=memory_mb) as verifier:
        return verifier.verify(completions, golds, style=style, on_done=on_done)


def _verdict(outcome: bool | str | None) -> Verdict:
    if isinstance(outcome, str):
        return Verdict(outcome)
    return Verdict.TIMEOUT if outcome is None else Verdict.CORRECT if outcome else Verdict.WRONG
