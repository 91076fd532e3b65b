"""A reward model that `prmbench serve` holds: what it says of itself, what it is asked, and the client that asks."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prmbench.data.tokens import EncodedTrace
from prmbench.errors import ArgumentError, UserError, first_line
from prmbench.results.schema import Subject
from prmbench.reward_models.base import LoadRequest, RewardModel
from prmbench.reward_models.card import Card
from prmbench.reward_models.endo import position_weights

KEY_VARIABLE = "PRMBENCH_SERVE_KEY"
"""Environment variable that holds the key of a server, of which both sides know."""

PASSING = (408, 429, 502, 503, 504)
"""HTTP statuses that may pass by themselves."""

LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""


class ServerLimits(BaseModel):
    """What a server takes in one request, and in all that wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(8 << 20, ge=1, description="bytes of the body of a request")
    traces: int = Field(256, ge=1, description="traces of a request")
    steps: int = Field(1000, ge=1, description="steps of a trace")
    tokens: int = Field(32_768, ge=1, description="tokens of a trace, its prompt included")
    waiting_tokens: int = Field(4_000_000, ge=1, description="tokens of all traces that wait for the model")


class ServedModel(BaseModel):
    """What a server says of its reward model: the reply to ``GET /model``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: str = Field(description="version of prmbench that serves it")
    subject: Subject = Field(description="the model, as entries describe it")
    identity: str = Field(
        description="sha256 of all that decides its numbers; every reply with token values repeats it"
    )
    prompt: str | None = Field(description="prompt template that problems are put with")
    chat_template: str | None = Field(
        description="sha256 of its chat template; null where it shows traces in its own way"
    )
    vocabulary: str | None = Field(
        description="sha256 of its tokens and their ids, as `vocabulary_hash` makes it; null where it gives no values of tokens"
    )
    max_length: int = Field(description="longest sequence in tokens that it takes")
    token_values: bool = Field(description="whether it gives values of tokens")
    protocols: list[str] = Field(description="names of the scores of a step; empty for a critic")
    limits: ServerLimits = Field(description="what it takes in a request")


class TokenRow(BaseModel):
    """A prompt with a response, as token ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: list[int] = Field(description="token ids of the prompt, then of the response")
    n_prompt: int = Field(ge=1, description="how many of them are the prompt's")


class TokenValues(BaseModel):
    """Values of response tokens, before beta: the reply to ``POST /token-values``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    identity: str = Field(description="the model, as `ServedModel` has it")
    values: list[list[float]] = Field(description="one list a row, one value a response token")


ROWS: TypeAdapter[list[TokenRow]] = TypeAdapter(list[TokenRow])
"""Reads the body of ``POST /token-values``: a list of rows."""


def vocabulary_hash(vocabulary: dict[str, int]) -> str:
    """Hash the tokens of a tokenizer with their ids.

    Args:
        vocabulary: Id of every token.

    Returns:
        The sha256, in hex.
    """
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def is_url(source: str) -> bool:
    """Say whether the name of a model is the address of a server.

    Args:
        source: The model as the user named it.
    """
    return source.startswith(("http://", "https://"))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key is for one server only."""

    def redirect_request(self, *_: Any) -> None:
        return None


class RewardServer:
    """Asks a server, with patience.

    Attributes:
        url: The server's address, without a name, a password or a query that may stand in it.
    """

    def __init__(
        self, url: str, key_variable: str = KEY_VARIABLE, *, timeout: float = 600.0, retries: int = 8, wait: float = 1.0
    ) -> None:
        """Prepare the client; nothing is sent.

        Args:
            url: Address of the server, such as ``http://gpu-1:8100``.
            key_variable: Environment variable that holds the key. Without a value none is sent.
            timeout: Seconds after which one try is given up.
            retries: How often a request is sent again after a lost connection, or a status of `PASSING`.
            wait: Seconds before the first retry; they double, up to `LONGEST_WAIT`, unless the server names a time.

        Raises:
            UserError: The address is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url}: is no address; expected one such as http://gpu-1:8100")
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._key_variable, self._key = key_variable, os.environ.get(key_variable) or ""
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._opener = urllib.request.build_opener(_NoRedirects)

    def describe(self) -> ServedModel:
        """Ask what the server holds.

        Raises:
            UserError: It cannot be reached, refuses, or is no server of prmbench.
        """
        return self._read(ServedModel, self._ask("/model"))

    def token_values(self, rows: Sequence[TokenRow]) -> TokenValues:
        """Ask for values of tokens, in one request.

        Args:
            rows: Prompts with responses, no more than the server takes.

        Raises:
            UserError: As `describe`; or the reply has other rows than were asked for.
        """
        body = ROWS.dump_json(list(rows))
        found = self._read(TokenValues, self._ask("/token-values", body))
        wanted = [len(row.ids) - row.n_prompt for row in rows]
        if [len(one) for one in found.values] != wanted:
            raise UserError(
                f"{self.url}: the reply has other rows or lengths than were asked for; is it prmbench serve?"
            )
        return found

    def _read(self, kind: type[Any], reply: bytes) -> Any:
        try:
            return kind.model_validate_json(reply)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the whole"
            raise UserError(
                f"{self.url}: the reply is not what prmbench serve gives ({field}: {first['msg']}); is it another server, or "
                "another version?"
            ) from None

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        """Send a request until it is answered. Raises UserError where it is not."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)
        problem = ""
        for number in range(self._retries + 1):
            pause = min(self._wait * 2**number, LONGEST_WAIT)
            try:
                with self._opener.open(request, timeout=self._timeout) as reply:
                    return bytes(reply.read())
            except urllib.error.HTTPError as error:
                said = _said(error)
                if error.code not in PASSING:
                    raise UserError(f"{self.url}: {self._advice(error.code)} ({said})") from None
                problem = said
                pause = _named_pause(error) or pause
            except (OSError, HTTPException) as error:
                problem = first_line(getattr(error, "reason", None) or error)
            if number < self._retries:
                time.sleep(pause)
        raise UserError(
            f"{self.url}: no answer after {self._retries + 1} tries ({problem}); is prmbench serve running there?"
        )

    def _advice(self, status: int) -> str:
        if status == 401:
            return f"the key was refused; set the environment variable {self._key_variable}"
        return "the request was refused" if status < 500 else "the server failed"


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says is wrong."""
    try:
        return str(json.loads(error.read(1 << 16))["error"])
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return f"HTTP {error.code}"


def _named_pause(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait; None where it does not say."""
    named = error.headers.get("Retry-After") or ""
    return min(float(named), LONGEST_WAIT) if named.isdecimal() else None


class RemoteRewardModel(RewardModel):
    """A reward model behind a server, for its token values.

    Attributes:
        server: The server.
        served: What it says of its model.
    """

    def __init__(self, server: RewardServer) -> None:
        """Ask the server what it holds.

        Args:
            server: The server.

        Raises:
            UserError: It cannot be reached, or its model gives no token values.
        """
        self.server, self.served = server, server.describe()
        subject = self.served.subject
        if not self.served.token_values:
            raise UserError(
                f"{server.url}: serves a model of kind {subject.kind}, which gives no values of tokens; serve a model of kind "
                "implicit, q_rm or endo"
            )
        self.kind = subject.kind  # type: ignore[misc]
        self.card = Card(kind=subject.kind, objective=subject.objective, beta=subject.beta, margin=subject.margin)
        self.max_length, self.hashes, self.facts = self.served.max_length, subject.weights, subject.facts
        self.source = server.url

    @classmethod
    def load(cls, request: LoadRequest) -> RemoteRewardModel:
        """Refuse a checkpoint: a server has loaded its own.

        Args:
            request: The checkpoint and how to load it.

        Raises:
            ArgumentError: Always.
        """
        raise ArgumentError("kind", request.card.kind, "is a server's; name the kind of the checkpoint")

    def device_and_dtype(self) -> tuple[str, str]:
        """Return where it computes: at the server, in a type that only that knows."""
        return "server", "unknown"

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Ask the server. See `RewardModel.token_values`.

        Args:
            batch: The traces.

        Raises:
            UserError: The server cannot be reached, refuses, or holds another model than before.
        """
        found: list[NDArray[np.float64]] = []
        for rows in _portions(batch, self.served.limits):
            reply = self.server.token_values(rows)
            if reply.identity != self.served.identity:
                raise UserError(
                    f"{self.server.url}: serves another model than when the run began; serve the same one again"
                )
            found += [np.array(one, dtype=np.float64) for one in reply.values]
        return found

    def weighted_total(self, values: NDArray[np.float64]) -> float | None:
        """Score a whole response of EndoRM. See `RewardModel.weighted_total`.

        Args:
            values: Token values of the response. float64, shape [t].
        """
        said = self.served.subject.scoring or {}
        if "decay" not in said:
            return None
        return float(position_weights(len(values), said["decay"], said["decay_floor"]) @ values)


def _portions(batch: Sequence[EncodedTrace], limits: ServerLimits) -> Iterator[list[TokenRow]]:
    """Cut a batch into requests that a server takes: so many rows, and so many bytes of JSON, with 12 a token at most."""
    rows: list[TokenRow] = []
    size = 0
    for trace in batch:
        cost = 12 * len(trace) + 64
        if rows and (len(rows) == limits.traces or size + cost > limits.body_bytes):
            yield rows
            rows, size = [], 0
        rows.append(TokenRow(ids=trace.ids.tolist(), n_prompt=trace.n_prompt))
        size += cost
    if rows:
        yield rows
