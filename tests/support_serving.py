"""A server on the loopback, in a thread of the test's process."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

from prmbench.serving.app import ScoringService
from prmbench.serving.run import listen, make_server


class Running:
    """A server that runs.

    Attributes:
        url: Its address.
        service: What its paths share.
    """

    def __init__(self, url, service):
        self.url, self.service = url, service

    def send(self, path, body=None, *, headers=None, raw=None):
        """Returns (status, the JSON or text of the reply). A body is sent as JSON, raw bytes as they are."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers={**named, **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                status, text = reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text


@contextmanager
def running(model, **settings):
    """Serve a model while the block runs."""
    service, ready, found = ScoringService(model, name="tested", **settings), threading.Event(), []

    def announce(url):
        found.append(url)
        ready.set()

    with listen("127.0.0.1", 0) as opened:
        server = make_server(service, opened, announce)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield Running(found[0], service)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
            assert not service.worker.healthy
