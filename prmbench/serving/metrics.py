"""What a server counts of its work, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prmbench.data.tokens import EncodedTrace

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Ends of the buckets of durations."""


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        registry: The registry.
        requests: Requests by path and HTTP status.
        seconds: Seconds from a request to its reply, by path.
        waiting: Tokens that wait for the model, or are under way.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "prmbench_requests", "Requests by path and HTTP status.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "prmbench_request_seconds",
            "Seconds from a request to its reply.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "prmbench_waiting_tokens", "Tokens that wait for the model, or are under way.", registry=self.registry
        )
        self._traces = Counter("prmbench_traces", "Traces that were scored.", registry=self.registry)
        self._tokens = Counter("prmbench_tokens", "Tokens of these traces.", registry=self.registry)
        self._steps = Counter("prmbench_steps", "Steps of these traces.", registry=self.registry)
        self._batches = Counter("prmbench_batches", "Batches that the model ran.", registry=self.registry)
        self._model = Counter("prmbench_model_seconds", "Seconds that the model ran.", registry=self.registry)

    def count_batch(self, traces: Sequence[EncodedTrace], seconds: float) -> None:
        """Count a batch.

        Args:
            traces: Its traces.
            seconds: Seconds that it took.
        """
        self._traces.inc(len(traces))
        self._tokens.inc(sum(map(len, traces)))
        self._steps.inc(sum(trace.n_steps for trace in traces))
        self._batches.inc()
        self._model.inc(seconds)

    def text(self) -> bytes:
        """Give all of them in Prometheus's text format."""
        return generate_latest(self.registry)
