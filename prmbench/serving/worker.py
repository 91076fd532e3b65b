"""The one thread that holds the model: it scores what all requests ask for, in batches that go across requests."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from prmbench.data.solutions import Solution
from prmbench.data.tokens import EncodedTrace
from prmbench.engines.batching import BatchRunner, default_batch_tokens, plan_batches
from prmbench.errors import UserError
from prmbench.reward_models.base import RewardModel
from prmbench.scoring.run import score_batch
from prmbench.scoring.threshold import Threshold
from prmbench.serving.metrics import Metrics

WINDOW = 0.005
"""Seconds that the worker waits for others to come where there is less than one batch of work."""

ROUND = 8
"""Batches of work that are collected at most before they run: traces of one length then go together, and none waits for long."""

BROKEN = 3
"""Failures of the model in a row, of single traces, after which the server calls itself unhealthy."""

_log = logging.getLogger(__name__)


class Busy(Exception):
    """So much work is waiting that no more is taken."""


@dataclass(frozen=True)
class ScoringJob:
    """One trace to score.

    Attributes:
        trace: Its token ids.
        solution: The solution, whose steps are scored; None: the values of its tokens are asked for.
        done: Gets the scores, the values, or the error.
    """

    trace: EncodedTrace
    solution: Solution | None
    done: Future[Any] = field(default_factory=Future)


class ScoringWorker:
    """Scores jobs in a thread of its own.

    Attributes:
        model: The model; only this thread runs it.
        budget: Padded tokens of a batch.
    """

    def __init__(
        self,
        model: RewardModel,
        metrics: Metrics,
        *,
        threshold: Threshold | None = None,
        batch_tokens: int | None = None,
        most_waiting: int = 4_000_000,
        window: float = WINDOW,
    ) -> None:
        """Start the thread.

        Args:
            model: The model.
            metrics: Where work is counted.
            threshold: Below it a step is taken for wrong; None predicts no first errors.
            batch_tokens: Padded tokens of a batch; None for what suits the model on its device.
            most_waiting: Tokens that may wait; more are refused.
            window: Seconds to wait for others where there is less than one batch of work.
        """
        self.model, self._metrics, self._threshold = model, metrics, threshold
        self.budget = batch_tokens or model.batch_tokens or default_batch_tokens(model.device_and_dtype()[0])
        self._most_waiting, self._window = most_waiting, window
        self._jobs: queue.SimpleQueue[ScoringJob | None] = queue.SimpleQueue()
        self._lock, self._waiting, self._closed, self._failures = threading.Lock(), 0, False, 0
        self._thread = threading.Thread(target=self._work, name="prmbench-serve", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the thread runs, and the model did not fail again and again."""
        return self._thread.is_alive() and not self._closed and self._failures < BROKEN

    def submit(self, jobs: Sequence[ScoringJob]) -> None:
        """Give the worker jobs. All are taken, or none.

        Args:
            jobs: The jobs.

        Raises:
            Busy: Too much is waiting, or the worker is closed. Where nothing waits, any number of tokens is taken.
        """
        tokens = sum(len(job.trace) for job in jobs)
        with self._lock:
            if (
                self._closed
                or not self._thread.is_alive()
                or (self._waiting and self._waiting + tokens > self._most_waiting)
            ):
                raise Busy
            self._waiting += tokens
            self._metrics.waiting.set(self._waiting)
            for job in jobs:
                self._jobs.put(job)

    def close(self) -> None:
        """Finish what is waiting, and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._collect()
            # A client that has gone needs no scores.
            wanted = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            for kind in (True, False):
                some = [job for job in wanted if (job.solution is not None) is kind]
                try:
                    self._run(some)
                except Exception as error:  # a fault of ours: the thread goes on, and nobody waits for ever
                    for job in some:
                        if not job.done.done():
                            self._fail(job, error)
            with self._lock:
                self._waiting -= sum(len(job.trace) for job in jobs)
                self._metrics.waiting.set(self._waiting)

    def _collect(self) -> tuple[list[ScoringJob], bool]:
        """Wait for work, then a moment for more. Returns it, and whether more may come."""
        jobs: list[ScoringJob] = []
        tokens, until = 0, 0.0
        while tokens < ROUND * self.budget:
            try:
                if not jobs:
                    job = self._jobs.get()
                    until = time.monotonic() + self._window
                elif tokens < self.budget:
                    job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
                else:
                    job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
            tokens += len(job.trace)
        return jobs, True

    def _run(self, jobs: list[ScoringJob]) -> None:
        """Score jobs of one sort, batch by batch. What fails in a batch is tried alone, so that no trace spoils another."""
        lengths = [len(job.trace) for job in jobs]
        runner = BatchRunner(self.budget)
        for batch in plan_batches(lengths, self.budget):
            for indices in (batch, *([i] for i in batch)):
                left = [i for i in indices if not jobs[i].done.done()]
                if not left:
                    continue
                try:
                    runner.run(left, lengths, lambda some: self._score([jobs[i] for i in some]))
                    self._failures = 0
                except Exception as error:  # of the model, which raises what it likes
                    if len(left) == 1:
                        self._fail(jobs[left[0]], error)

    def _score(self, jobs: Sequence[ScoringJob]) -> None:
        started, traces = time.monotonic(), [job.trace for job in jobs]
        if jobs[0].solution is None:
            found: list[Any] = [values.tolist() for values in self.model.token_values(traces)]
        else:
            solutions = [job.solution for job in jobs if job.solution is not None]
            found = list(score_batch(self.model, solutions, traces, self._threshold))
        self._metrics.count_batch(traces, time.monotonic() - started)
        for job, one in zip(jobs, found, strict=True):
            job.done.set_result(one)

    def _fail(self, job: ScoringJob, error: Exception) -> None:
        if not isinstance(error, UserError):
            self._failures += 1
            _log.error("the model failed on a trace of %d tokens", len(job.trace), exc_info=error)
        job.done.set_exception(error)
