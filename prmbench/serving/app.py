"""The HTTP interface: which paths there are, what each takes, and what it refuses."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from prmbench.data.records import refuse_duplicates
from prmbench.data.solutions import SolutionRecord, parse_solution
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.errors import UserError, as_flags
from prmbench.results.provenance import versions
from prmbench.results.schema import digest
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.remote import ROWS, ServedModel, ServerLimits, TokenRow, TokenValues, vocabulary_hash
from prmbench.reward_models.subject import describe
from prmbench.scoring.run import Scored, encode_solution
from prmbench.scoring.threshold import Threshold, protocols_of
from prmbench.serving.body import Refusal, parse_json, read_body
from prmbench.serving.metrics import Metrics
from prmbench.serving.worker import Busy, ScoringJob, ScoringWorker

MAX_FIELDS = 100
"""Fields of a record; more are no mistake of a person."""

LONGEST_TOKEN = 64
"""Characters of a token; a text with more than so many for each token that fits is refused unread."""

OPEN = ("/health",)
"""Paths that need no key."""


class ScoringService:
    """What the paths share: the model, what it takes, and the worker that runs it."""

    def __init__(
        self,
        model: RewardModel,
        *,
        name: str,
        limits: ServerLimits | None = None,
        key: str | None = None,
        threshold: Threshold | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Start the worker.

        Args:
            model: The model.
            name: What it is called.
            limits: What is taken in a request; None: the defaults.
            key: What a request must bring as ``Authorization: Bearer KEY``; None: nothing.
            threshold: Below it a step is taken for wrong; None predicts no first errors.
            batch_tokens: Padded tokens of a batch; None for what suits the model on its device.
        """
        self.model, self.limits, self.metrics = model, limits or ServerLimits(), Metrics()
        self.served = describe_served(model, name, self.limits)
        self.worker = ScoringWorker(
            model,
            self.metrics,
            threshold=threshold,
            batch_tokens=batch_tokens,
            most_waiting=self.limits.waiting_tokens,
        )
        self._key = key.encode() if key else None
        self._tokenizer = threading.Lock()

    def admit(self, request: Request) -> None:
        """Check the key of a request.

        Args:
            request: The request.

        Raises:
            Refusal: The key is missing or another one.
        """
        if self._key is None:
            return
        given = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, b"Bearer " + self._key):
            raise Refusal(
                401, "the key is missing or wrong; send 'Authorization: Bearer KEY'", {"WWW-Authenticate": "Bearer"}
            )

    def solution_jobs(self, body: bytes) -> tuple[list[ScoringJob], bool]:
        """Read one record, or a list of them.

        Args:
            body: The body of the request.

        Returns:
            A job for each, and whether the body is a list.

        Raises:
            Refusal: It holds none, or too many.
            UserError: A record is wrong, or its solution is too long.
        """
        found = parse_json(body)
        records = found if isinstance(found, list) else [found]
        self._check_count(len(records), "records {problem, steps} or {problem, solution}")
        places = [f"trace {i}" for i in range(1, len(records) + 1)] if isinstance(found, list) else ["the body"]
        solutions = []
        for number, (place, record) in enumerate(zip(places, records, strict=True), start=1):
            if isinstance(record, dict) and len(record) > MAX_FIELDS:
                raise Refusal(422, f"{place}: has {len(record):,} fields; a record has problem, steps and id")
            solution = parse_solution(place, record, number)
            if len(solution.steps) > self.limits.steps:
                raise Refusal(
                    413, f"{place}: has {len(solution.steps):,} steps, this server takes {self.limits.steps:,}"
                )
            size = len(solution.problem) + sum(map(len, solution.steps))
            if size > LONGEST_TOKEN * self.served.max_length:  # said before the tokenizer works through it
                raise Refusal(
                    413, f"{place}: has {size:,} characters, this server takes {self.served.max_length:,} tokens"
                )
            solutions.append(solution)
        refuse_duplicates((one.id for one in solutions), places)
        jobs = []
        for place, solution in zip(places, solutions, strict=True):
            with self._tokenizer:
                trace = encode_solution(self.model, solution)
            self._check_length(place, len(trace))
            jobs.append(ScoringJob(trace, solution))
        return jobs, isinstance(found, list)

    def value_jobs(self, body: bytes) -> list[ScoringJob]:
        """Read rows of token ids.

        Args:
            body: The body of the request.

        Returns:
            A job for each.

        Raises:
            Refusal: They are none, too many, too long, or not of this vocabulary; or the model gives no values of tokens.
        """
        if not self.served.token_values:
            kind = self.served.subject.kind
            raise Refusal(422, f"a model of kind {kind} gives no values of tokens; ask /score for scores of steps")
        try:
            rows = ROWS.validate_python(parse_json(body), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise Refusal(422, f"{where}: {first['msg'].lower()}; expected a list of {{ids, n_prompt}}") from None
        self._check_count(len(rows), "rows {ids, n_prompt}")
        return [ScoringJob(self._trace(f"row {i}", row), None) for i, row in enumerate(rows, start=1)]

    def _trace(self, place: str, row: TokenRow) -> EncodedTrace:
        """A row as a trace. Raises Refusal where it is too long, or not of this vocabulary."""
        n = len(row.ids)
        if n <= row.n_prompt:
            raise Refusal(422, f"{place}: n_prompt is {row.n_prompt:,} of {n:,} ids, which leaves no response")
        self._check_length(place, n)
        low, high = min(row.ids), max(row.ids)
        if low < 0 or high >= self.model.vocabulary:
            raise Refusal(422, f"{place}: holds an id outside of the vocabulary, 0 to {self.model.vocabulary - 1:,}")
        ids = np.array(row.ids, dtype=np.int64)
        return EncodedTrace(ids, row.n_prompt, np.zeros(n - row.n_prompt, dtype=np.int64), 1)

    def _check_count(self, n: int, what: str) -> None:
        if not n:
            raise Refusal(422, f"the list is empty; expected {what}")
        if n > self.limits.traces:
            raise Refusal(
                413, f"the list has {n:,} traces, this server takes {self.limits.traces:,} at once; send fewer"
            )

    def _check_length(self, place: str, n: int) -> None:
        if n > self.served.max_length:
            raise Refusal(
                413, f"{place}: needs {n:,} tokens, this server takes {self.served.max_length:,}; take it out"
            )


def describe_served(model: RewardModel, name: str, limits: ServerLimits) -> ServedModel:
    """Say what a server holds.

    Args:
        model: The model.
        name: What it is called.
        limits: What is taken in a request.
    """
    subject = describe(model, name, model.source)
    own = model.encoder.conversation()["chat_template"] if isinstance(model.encoder, TraceEncoder) else None
    device, dtype = model.device_and_dtype()
    token_values = not (model.step_valued or model.predicts)
    decides = subject.model_dump(mode="json", exclude={"name", "source", "reference"})
    numerics = [model.encoder.template_hash(), model.engine, device.partition(":")[0], dtype]
    return ServedModel(
        version=versions().get("prmbench", ""),
        subject=subject,
        identity=digest([decides, numerics]),
        prompt=model.card.prompt,
        chat_template=own,
        vocabulary=vocabulary_hash(model.encoder.tokenizer.get_vocab()) if token_values else None,
        max_length=min(limits.tokens, model.max_length or limits.tokens),
        token_values=token_values,
        protocols=list(protocols_of(model)),
        limits=limits,
    )


def make_app(service: ScoringService) -> FastAPI:
    """Make the application.

    Args:
        service: What the paths share.

    Returns:
        The application. Its worker ends with it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.worker.close)

    # Pages for browsers would load scripts from elsewhere; the schema is at /openapi.json.
    app = FastAPI(
        title="prmbench serve",
        version=service.served.version,
        summary="Step scores of a reward model.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send clients to whatever host the request names
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_watch(app, service)

    @app.post("/score", response_model=None, openapi_extra=_schema(SolutionRecord, Scored))
    async def score(request: Request) -> Response:
        """Score the steps of one solution, or of a list of solutions; no labels are needed."""
        body = await read_body(request, service.limits.body_bytes)
        jobs, several = await run_in_threadpool(service.solution_jobs, body)
        found = [one.fields() for one in await _results(service.worker, jobs)]
        return _json(found if several else found[0])

    @app.post("/token-values", response_model=None, openapi_extra=_schema(list[TokenRow], TokenValues, several=False))
    async def token_values(request: Request) -> Response:
        """Give the values of response tokens, before beta, of a model that has such values."""
        body = await read_body(request, service.limits.body_bytes)
        jobs = await run_in_threadpool(service.value_jobs, body)
        found = await _results(service.worker, jobs)
        return _json({"identity": service.served.identity, "values": found})

    @app.get("/model")
    async def model() -> ServedModel:
        """Say what is served, and what a request may hold."""
        return service.served

    @app.get("/health", response_model=None)
    async def health() -> Response:
        """Say whether the server can score."""
        if not service.worker.healthy:
            raise Refusal(503, "the model fails, or the server is about to end; start it again")
        return _json({"status": "ok"})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Give counters in Prometheus's text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _results(worker: ScoringWorker, jobs: Sequence[ScoringJob]) -> list[Any]:
    """Let the worker score, and wait for it. Raises the first error of a job."""
    try:
        worker.submit(jobs)
    except Busy:
        raise Refusal(503, "too much is waiting; try again in a moment", {"Retry-After": "1"}) from None
    waiting: list[Future[Any]] = [job.done for job in jobs]
    try:
        found = await asyncio.gather(*map(asyncio.wrap_future, waiting), return_exceptions=True)
    except asyncio.CancelledError:
        for one in waiting:
            one.cancel()
        raise
    for result in found:
        if isinstance(result, UserError):
            raise result
        if isinstance(result, BaseException):
            raise Refusal(500, "the model failed on this request; the server's log says more") from None
    return list(found)


def _add_errors(app: FastAPI) -> None:
    """Make every error one sentence in JSON."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return _json({"error": error.said}, error.status, error.headers)

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> Response:
        return _json({"error": as_flags(str(error))}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        said = {404: "no such path; there are /score, /token-values, /model, /health and /metrics"}
        return _json({"error": said.get(error.status_code, error.detail.lower())}, error.status_code, error.headers)


def _add_watch(app: FastAPI, service: ScoringService) -> None:
    """Check the key before anything else, and count every request under a path that exists."""
    paths = {"/score", "/token-values", "/model", "/health", "/metrics", "/openapi.json"}

    @app.middleware("http")
    async def watch(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        started, path = time.monotonic(), request.url.path
        try:
            if path not in OPEN:
                service.admit(request)
            reply = await proceed(request)
        except Refusal as error:
            reply = _json({"error": error.said}, error.status, error.headers)
        known = path if path in paths else "other"
        service.metrics.requests.labels(known, str(reply.status_code)).inc()
        service.metrics.seconds.labels(known).observe(time.monotonic() - started)
        return reply


def _json(content: object, status: int = 200, headers: Any = None) -> Response:
    """A reply in JSON, written as files of scores are: with numbers exact."""
    return Response(json.dumps(content), status, dict(headers or {}), "application/json")


def _schema(asked: Any, reply: Any, *, several: bool = True) -> dict[str, Any]:
    """What OpenAPI says of a path that reads its body itself; `several`: one of each, or a list of each."""

    def of(kind: Any) -> dict[str, Any]:
        one = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        return {"anyOf": [one, {"type": "array", "items": one}]} if several else one

    json_of = {name: {"application/json": {"schema": of(kind)}} for name, kind in (("asked", asked), ("reply", reply))}
    return {
        "requestBody": {"required": True, "content": json_of["asked"]},
        "responses": {"200": {"description": "the scores", "content": json_of["reply"]}},
    }
