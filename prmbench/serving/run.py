"""Run the server until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from prmbench.errors import ArgumentError
from prmbench.serving.app import ScoringService, make_app

CONNECTIONS = 256
"""Connections that are open at once; further ones get 503. Each may hold a whole body in memory."""

GRACE = 30
"""Seconds that requests under way have to end once the server is told to stop."""


def read_key(variable: str, *, asked: bool) -> str | None:
    """Read the key from the environment.

    Args:
        variable: Name of the environment variable.
        asked: Whether the user named the variable, so that it must hold a key.

    Returns:
        The key; None: there is none.

    Raises:
        ArgumentError: The variable must hold a key and does not, or the key cannot stand in a header.
    """
    key = os.environ.get(variable) or None
    if key is None and asked:
        raise ArgumentError(
            "server_key_variable", variable, "the environment has no such variable, or it is empty; export it"
        )
    if key is not None and (not key.isascii() or not key.isprintable() or key != key.strip()):
        raise ArgumentError(
            "server_key_variable", variable, "its key holds spaces at an end, or what a header cannot hold"
        )
    return key


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address.

    Args:
        host: The address that the server is bound to.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that the server listens at, before a model is loaded.

    Args:
        host: The address; ``0.0.0.0`` or ``::`` for every one of this machine.
        port: The port; 0 for any free one.

    Raises:
        ArgumentError: The address is none of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise ArgumentError("host", host, "no address of this machine; expected one such as 127.0.0.1") from None
        taken = f"cannot be listened at ({os.strerror(error.errno)}); name another port, or 0 for any free one"
        raise ArgumentError("port", port, taken) from None


def make_server(service: ScoringService, opened: socket.socket, announce: Callable[[str], None]) -> uvicorn.Server:
    """Make the server; ``run(sockets=[opened])`` runs it until its ``should_exit`` is set.

    Args:
        service: The model, and what is taken.
        opened: The socket, from `listen`.
        announce: Called with the server's address once it answers.
    """
    host, port = opened.getsockname()[:2]

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    config = uvicorn.Config(
        make_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )
    return Server(config)


def serve(service: ScoringService, opened: socket.socket, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Requests under way are answered first.

    Args:
        service: The model, and what is taken.
        opened: The socket, from `listen`.
        announce: Called with the server's address once it answers.
    """
    with _quiet_signals():
        make_server(service, opened, announce).run(sockets=[opened])


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Let a signal end the server, and not the process: uvicorn raises it once more when it is done."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, lambda *_: None) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
