"""Bodies of requests: read within limits, and refused in one sentence."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

SECONDS = 60.0
"""Seconds within which the whole body of a request must come."""

PATIENCE = 4
"""How many times the most bytes are read of a body that is too long."""


class Refusal(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: HTTP status.
        said: Why, in one sentence.
        headers: Further headers of the reply.
    """

    def __init__(self, status: int, said: str, headers: dict[str, str] | None = None) -> None:
        """Word the refusal.

        Args:
            status: HTTP status.
            said: Why, in one sentence.
            headers: Further headers of the reply; None: none.
        """
        super().__init__(said)
        self.status, self.said, self.headers = status, said, headers or {}


async def read_body(request: Request, most: int) -> bytes:
    """Read the body of a request that is to hold JSON.

    Args:
        request: The request.
        most: The most bytes that it may have.

    Raises:
        Refusal: It is not called JSON, is too long, or does not come in time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"the content type is '{kind[:60]}'; send JSON with 'Content-Type: application/json'")
    too_long = Refusal(
        413, f"the body has more than {most:,} bytes, the most that this server takes; send fewer traces"
    )
    named = request.headers.get("content-length", "0")
    if not named.isascii() or not named.isdigit() or len(named) > 18:
        raise Refusal(400, "the header Content-Length is no number")
    # A client that is still sending when it is refused sees a broken connection, not why: a little more is read and dropped.
    if int(named) > PATIENCE * most:
        raise too_long
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > PATIENCE * most:
                    raise too_long
                if size <= most:
                    body += chunk
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {SECONDS:g} s; send it faster") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended before the body did") from None
    if size > most:
        raise too_long
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """Read JSON.

    Args:
        body: The bytes.

    Raises:
        Refusal: They are none.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise Refusal(400, "the body nests too deeply to be a trace") from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is no text in UTF-8") from None
    except ValueError as error:  # also a whole number with too many digits
        where = (
            f" (line {error.lineno}, column {error.colno}: {error.msg})"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise Refusal(400, f"the body is no JSON{where}") from None
