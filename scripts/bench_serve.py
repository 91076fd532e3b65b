"""How much `prmbench serve` costs over the library, under many clients.

    python scripts/bench_serve.py [--data FILE] [--traces 100] [--clients 50] [--repeats 3] [--model DIR]

The model is SmolLM2-135M as EndoRM, in float32 on the CPU, or the one of ``--model`` (a folder). The traces are the first of
ProcessBench's gsm8k, from ``$PRMBENCH_DATA_DIR``. The server is a process of its own, and so are the clients: threads that send one
trace a request and wait for it. The library scores the same traces in one call (`score_solutions`), in the same batch size.
The two take turns; the server is idle while the library works. Prints, of each repeat and of the medians:

- traces a second of both ways, and the ratio of serve to the library;
- p50 and p99 of the seconds from a request to its reply, and the largest difference of a score.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench_tools import smollm2

from prmbench.data.solutions import Solution
from prmbench.data.traces import load_traces
from prmbench.reward_models.loading import load_reward_model
from prmbench.scoring.run import Scored, score_solutions


def ask_all(
    port: int, solutions: list[Solution], clients: int
) -> tuple[float, list[float], dict[str, dict[str, object]]]:
    """Send every solution once. Returns the seconds of all, those of each request, and the replies by id."""
    todo: queue.SimpleQueue[Solution] = queue.SimpleQueue()
    for one in solutions:
        todo.put(one)
    seconds: list[float] = []
    replies: dict[str, dict[str, object]] = {}

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            try:
                one = todo.get_nowait()
            except queue.Empty:
                return
            body = json.dumps({"id": one.id, "problem": one.problem, "steps": one.steps})
            started = time.perf_counter()
            connection.request("POST", "/score", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read()
            seconds.append(time.perf_counter() - started)
            if reply.status != 200:
                raise SystemExit(f"HTTP {reply.status}: {text[:200]!r}")
            replies[one.id] = json.loads(text)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, seconds, replies


def largest_difference(scored: list[Scored], replies: dict[str, dict[str, object]]) -> float:
    """Largest difference of a step's score between the two ways, over the size of the score where that is above 1."""
    found = []
    for one in scored:
        there: dict[str, list[float]] = replies[one.id]["scores"]  # type: ignore[assignment]
        for name, values in one.scores.items():
            mine = np.array(values)
            found.append(float((np.abs(mine - there[name]) / np.maximum(np.abs(mine), 1)).max()))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data", default=os.path.join(os.environ.get("PRMBENCH_DATA_DIR", "."), "processbench/gsm8k.json")
    )
    for name, default in (("traces", 100), ("clients", 50), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    traces = load_traces(given.data)[: given.traces]
    solutions = [Solution(one.id, one.problem, one.steps) for one in traces]
    with tempfile.TemporaryDirectory() as work:
        folder = given.model or smollm2(Path(work))
        command = [sys.executable, "-m", "prmbench", "serve", "--rm", str(folder), "--kind", "endo", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(",")[0].rpartition(":")[2])
            model = load_reward_model(folder, kind="endo")
            tokens = sum(len(model.encode(one.problem, one.steps)) for one in solutions)
            print(f"{len(solutions)} traces, {tokens:,} tokens, {given.clients} clients, {model.facts}")
            rows = []
            for _ in range(given.repeats):
                started = time.perf_counter()
                scored = score_solutions(model, solutions)
                library = time.perf_counter() - started
                served, seconds, replies = ask_all(port, solutions, given.clients)
                p50, p99 = np.quantile(seconds, [0.5, 0.99])
                rows.append([len(traces) / library, len(traces) / served, library / served, p50, p99])
                show(rows[-1])
            print(f"largest relative difference of a score: {largest_difference(scored, replies):.1e}")
            print("medians:")
            show(np.median(rows, axis=0).tolist())
            server.terminate()


def show(row: list[float]) -> None:
    """Print one repeat."""
    library, served, ratio, p50, p99 = row
    print(
        f"library {library:.2f} traces/s, serve {served:.2f} traces/s, ratio {ratio:.3f}; p50 {p50:.2f} s, p99 {p99:.2f} s"
    )


if __name__ == "__main__":
    main()
