"""A server of chat completions, asked with patience, and its replies, kept so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from prmbench.errors import ArgumentError, UserError, first_line
from prmbench.resources import cache_folder, install_command

OPENAI = "https://api.openai.com/v1"
_TRIES = 3
"""How often a reply that cannot be read is asked for. What may pass by itself is tried again by the client, with growing waits."""
_TOO_LONG = re.compile(r"context[ _]length|maximum.{0,20}(?:context|model len)", re.IGNORECASE)
_SECRET = re.compile(r"\bsk-\S+|Bearer \S+")


@dataclass(frozen=True)
class Service:
    """A server, and how it is asked.

    Attributes:
        base_url: Where its paths begin, such as ``http://localhost:8000/v1``; None: OpenAI's.
        key_variable: Environment variable that holds the key. The key itself is never recorded. Without a value none is sent.
        concurrency: Requests that are under way at once.
        timeout: Seconds after which one try is given up.
        retries: How often a request is sent again after a refusal for its rate (429), a fault of the server or a lost connection,
            with waits that double, or that the server names.
        prices: Price of a million tokens of prompts, and of replies; None: unknown.

    Raises:
        ArgumentError: An address that is none, or a limit that is not positive.
    """

    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 8
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ArgumentError("base_url", self.base_url, "expected an address such as http://localhost:8000/v1")
        if self.concurrency < 1:
            raise ArgumentError("concurrency", self.concurrency, "expected 1 or more requests at once")
        if self.prices is not None and not all(0 <= price < float("inf") for price in self.prices):
            raise ArgumentError("prices", " ".join(map(str, self.prices)), "expected two prices of a million tokens")

    @property
    def address(self) -> str:
        """The base URL that is asked."""
        return self.base_url or OPENAI

    @property
    def public_address(self) -> str:
        """The base URL without a name, a password or a query that may stand in it."""
        parts = urlsplit(self.address)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


@dataclass(frozen=True)
class Reply:
    """What the server answered.

    Attributes:
        text: The completion; empty where it was refused.
        ended: ``stop``, ``length`` where it was cut or the prompt left no room, or ``refused``.
        model: The model that the server says has answered.
        prompt_tokens: Tokens of the prompt, as the server counts them.
        completion_tokens: Tokens of the completion, as the server counts them.
    """

    text: str
    ended: Literal["stop", "length", "refused"]
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Replies:
    """Replies by what was asked, in one SQLite file; each is on disk before it is used."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the store.

        Args:
            path: Its file; None: ``$XDG_CACHE_HOME/prmbench/replies-1.sqlite``, else under ``~/.cache``.

        Raises:
            UserError: The file cannot be opened.
        """
        path = path or cache_folder() / "replies-1.sqlite"
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS reply (key TEXT PRIMARY KEY, fields TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: replies cannot be kept there ({first_line(error)}); set XDG_CACHE_HOME") from None

    def find(self, key: str) -> Reply | None:
        """Find a reply.

        Args:
            key: The hash of what was asked.
        """
        with self._lock:
            row = self._file.execute("SELECT fields FROM reply WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(**json.loads(row[0]))

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply.

        Args:
            key: The hash of what was asked.
            reply: The reply.
        """
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO reply VALUES (?, ?)", (key, json.dumps(reply.__dict__)))


class Client:
    """Asks one model of a service. Safe for several threads.

    Attributes:
        service: The server, and how it is asked.
        model: The model, as the server calls it.
        usage: Counts of this process: ``requests`` that were sent and answered, ``found`` ones that were answered before, tokens
            as the server counts them, replies that were ``cut`` or ``refused``.
        models: The models that the server says have answered.
    """

    def __init__(self, service: Service, model: str, replies: Replies | None = None) -> None:
        """Prepare the client; nothing is sent.

        Args:
            service: The server, and how it is asked.
            model: The model, as the server calls it.
            replies: Where replies are kept; None: the user's store.

        Raises:
            ArgumentError: The package openai is not installed.
        """
        try:
            import openai
        except ModuleNotFoundError:
            raise ArgumentError("engine", "api", f"needs the package openai: {install_command('api')}") from None
        self.service, self.model, self.replies = service, model, replies or Replies()
        self._key = os.environ.get(service.key_variable) or ""
        self._openai = openai.OpenAI(
            base_url=service.address,
            api_key=self._key or "none",
            max_retries=service.retries,
            timeout=service.timeout,
        )
        self._limit_name = "max_tokens"
        self._lock = threading.Lock()
        self.usage = dict.fromkeys(("requests", "found", "prompt_tokens", "completion_tokens", "cut", "refused"), 0)
        self.models: set[str] = set()

    def ask(self, messages: list[dict[str, str]], *, limit: int, sample: int, settings: dict[str, Any]) -> Reply:
        """Ask for one completion, or find the reply that an earlier run was given.

        Args:
            messages: The conversation, with the keys ``role`` and ``content``.
            limit: Most tokens of the completion.
            sample: Number of the completion among those of one conversation.
            settings: Further fields of the request, such as ``temperature`` and ``seed``.

        Returns:
            The reply.

        Raises:
            UserError: The server refuses, cannot be reached, or replies with what is no completion. What was answered is kept.
        """
        asked = {"model": self.model, "messages": messages, "limit": limit, **settings}
        key = hashlib.sha256(
            json.dumps([self.service.public_address, asked, sample], sort_keys=True).encode()
        ).hexdigest()
        reply = self.replies.find(key)
        found = reply is not None
        if reply is None:
            reply = self._send(messages, limit, settings)
            self.replies.keep(key, reply)
        with self._lock:
            self.models.add(reply.model)
            self.usage["found" if found else "requests"] += 1
            self.usage["cut"] += reply.ended == "length"
            self.usage["refused"] += reply.ended == "refused"
            if not found:
                self.usage["prompt_tokens"] += reply.prompt_tokens
                self.usage["completion_tokens"] += reply.completion_tokens
        return reply

    def cost(self) -> float | None:
        """Give the price of the tokens of this process; None where prices are unknown."""
        if self.service.prices is None:
            return None
        counts = self.usage["prompt_tokens"], self.usage["completion_tokens"]
        return sum(n * price for n, price in zip(counts, self.service.prices, strict=True)) / 1e6

    def _send(self, messages: list[dict[str, str]], limit: int, settings: dict[str, Any]) -> Reply:
        import openai

        problem = ""
        for _ in range(_TRIES):
            try:
                found = self._openai.chat.completions.create(
                    model=self.model, messages=messages, **{self._limit_name: limit}, **settings
                )  # type: ignore[call-overload]
                return _read(found)
            except openai.BadRequestError as error:
                if self._limit_name == "max_tokens" and "max_completion_tokens" in str(error):
                    self._limit_name = "max_completion_tokens"  # newer models of OpenAI know this name alone
                    continue
                if _TOO_LONG.search(str(error)):
                    return Reply("", "length", self.model)
                raise self._failed(error, "the request was refused") from None
            except (ValueError, openai.APIResponseValidationError) as error:
                problem = first_line(error)  # no JSON, or no completion in it
            except openai.APIStatusError as error:
                raise self._failed(error, _ADVICE.get(error.status_code, "the server failed")) from None
            except openai.APIConnectionError as error:
                raise self._failed(error.__cause__ or error, "the server cannot be reached") from None
        raise UserError(
            f"{self.service.public_address}: {_TRIES} replies held no completion ({self._clean(problem)}); is it a server of "
            "chat completions? What was answered is kept"
        )

    def _failed(self, error: BaseException, advice: str) -> UserError:
        advice = advice.replace("KEY", self.service.key_variable)
        said = self._clean(first_line(error)) or type(error).__name__
        return UserError(
            f"{self.service.public_address}, model {self.model}: {advice} ({said}). What was answered is kept: the same command "
            "goes on from there"
        )

    def _clean(self, text: str) -> str:
        """Take a key out of a message."""
        return _SECRET.sub("***", text.replace(self._key, "***") if self._key else text)


_ADVICE = {
    401: "the key was refused; is the environment variable KEY right?",
    403: "the key may not use this model",
    404: "no such address or model",
    429: "too many requests; lower the concurrency, or wait",
}
"""What may be wrong, by HTTP status."""


def _read(found: Any) -> Reply:
    """Read a completion. Raises ValueError where there is none."""
    choices = getattr(found, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1 or getattr(choices[0], "message", None) is None:
        raise ValueError(f"expected one choice, found {len(choices) if isinstance(choices, list) else 'none'}")
    choice, usage = choices[0], found.usage
    refused = bool(getattr(choice.message, "refusal", None)) or choice.finish_reason == "content_filter"
    text = choice.message.content or ""
    if not isinstance(text, str):
        raise ValueError("the message is no text")
    return Reply(
        text="" if refused else text,
        ended="refused" if refused else "length" if choice.finish_reason == "length" else "stop",
        model=str(found.model or ""),
        prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
    )
