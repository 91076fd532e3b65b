"""A server of chat completions on the loopback that does what a test asks of it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Stub:
    """What the server has been asked, and what it is to do.

    Attributes:
        asked: The bodies of all requests, in the order in which they came.
        keys: The keys that came with them.
        replies: What the next requests get, before the server answers as it should: a status, the bytes of a body, or "drop".
        answer: Makes the text of a completion of the last message.
        model: What it says it is.
        finish: The reason that a completion ended.
        most: Largest number of requests that were under way at once.
    """

    def __init__(self):
        self.asked, self.keys, self.replies = [], [], []
        self.answer, self.model, self.finish, self.refusal = (lambda text: r"so \boxed{-1}"), "served-1", "stop", None
        self.after, self.now, self.most, self.lock = 0.0, 0, 0, threading.Lock()
        self.url = ""

    def completion(self, body):
        message = {
            "role": "assistant",
            "content": self.answer(body["messages"][-1]["content"]),
            "refusal": self.refusal,
        }
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }


def _handler(stub):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with stub.lock:
                stub.asked.append(body)
                stub.keys.append(self.headers.get("authorization"))
                reply = stub.replies.pop(0) if stub.replies else None
                stub.now += 1
                stub.most = max(stub.most, stub.now)
            if stub.after:
                threading.Event().wait(stub.after)
            with stub.lock:
                stub.now -= 1
            if reply == "drop":
                self.connection.close()
                return
            if reply == "partial":
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"id": "x", "choi')
                self.close_connection = True
                return
            status, content = 200, json.dumps(stub.completion(body)).encode()
            if isinstance(reply, tuple):
                status, content = reply
            elif isinstance(reply, dict):
                content = json.dumps(stub.completion(body) | reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def stub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
    made = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield made
    server.shutdown()
    server.server_close()
