"""The server gives the numbers of `prmbench score`, whatever comes with a request, and refuses the rest in one sentence."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_serving import running
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.solutions import SolutionRecord
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.remote import RemoteRewardModel, RewardServer, ServerLimits, TokenRow
from prmbench.scoring.run import score_solutions
from prmbench.scoring.threshold import Threshold
from prmbench.serving.worker import ScoringJob

CLOSE = {"rel": 1e-5, "abs": 2e-4}
"""Sums of log-ratios in float32, times beta 10, in batches of other shapes."""


def record(solution):
    return {"id": solution.id, "problem": solution.problem, "steps": list(solution.steps)}


def check_same(found, wanted):
    """Found records are the lines that `prmbench score` writes, but for float32's last digits."""
    assert len(found) == len(wanted)
    for one, line in zip(found, (json.loads(w.line()) for w in wanted), strict=True):
        assert list(one) == list(line)
        assert {k: v for k, v in one.items() if k != "scores"} == {k: v for k, v in line.items() if k != "scores"}
        assert list(one["scores"]) == list(line["scores"])
        for name, values in line["scores"].items():
            assert one["scores"][name] == pytest.approx(values, **CLOSE)


@pytest.mark.parametrize("kind", ["implicit", "marked"])
def test_scores_are_those_of_score_whatever_the_batch(kind, solutions, request):
    model = request.getfixturevalue(kind)
    threshold = Threshold(0.1, "process" if kind == "implicit" else "step", "as given")
    wanted = score_solutions(model, solutions, threshold=threshold)
    for budget in (1, 700, 100_000):
        with running(model, threshold=threshold, batch_tokens=budget) as one:
            status, found = one.send("/score", [record(s) for s in solutions])
            assert status == 200
            check_same(found, wanted)
            status, found = one.send("/score", record(solutions[-2]))
            assert status == 200
            check_same([found], wanted[-2:-1])


def test_many_clients_share_batches_and_each_gets_its_own(implicit, solutions):
    wanted = {one.id: one for one in score_solutions(implicit, solutions)}
    with running(implicit, batch_tokens=4096) as one:
        with ThreadPoolExecutor(30) as pool:
            replies = list(pool.map(lambda s: (s, one.send("/score", record(s))), solutions * 3))
        for solution, (status, found) in replies:
            assert status == 200
            check_same([found], [wanted[solution.id]])
        _, text = one.send("/metrics")
        counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(counts["prmbench_traces_total"]) == 90
    assert float(counts["prmbench_steps_total"]) == 3 * sum(len(s.steps) for s in solutions)
    assert float(counts["prmbench_batches_total"]) < 90  # requests went together
    assert float(counts['prmbench_requests_total{path="/score",status="200"}']) == 90
    assert float(counts["prmbench_waiting_tokens"]) == 0


def test_a_raw_solution_and_no_id(server):
    status, found = server.send(
        "/score", [{"problem": "1 + 1?", "solution": "It is 2.\n\n\nSo 2."}, {"problem": "x", "steps": ["y"]}]
    )
    assert status == 200
    assert [(one["id"], len(one["n_tokens"])) for one in found] == [("1", 2), ("2", 1)]


def deep(n):
    return b"[" * n + b"]" * n


HOSTILE = [
    (b"", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[]", 422),
    (b"null", 422),
    (b"[[]]", 422),
    (b"[1, 2]", 422),
    (b'"text"', 422),
    (deep(100_000), 400),
    (b'{"problem": "x", "steps": ' + deep(500) + b"}", 422),
    (b"1" * 5000, 400),
    (b'{"problem": "x", "steps": ["y"], "id": ' + b"1" * 5000 + b"}", 400),
    (b'{"problem": "x", "steps": ["y"], "id": NaN}', 422),
    (b'{"problem": "x", "steps": ["y"], "id": {}}', 422),
    (b'{"problem": "\\ud800", "steps": ["y"]}', 422),
    (b'{"problem": "x", "steps": ["\\udfff"]}', 422),
    (b'{"problem": "", "steps": ["y"]}', 422),
    (b'{"problem": "x"}', 422),
    (b'{"problem": "x", "steps": []}', 422),
    (b'{"problem": "x", "steps": [null]}', 422),
    (b'{"problem": "x", "steps": "y"}', 422),
    (b'{"problem": "x", "steps": {"0": "y"}}', 422),
    (b'{"problem": "x", "steps": ["y"], "solution": "y"}', 422),
    (b'[{"problem": "x", "steps": ["y"], "id": 1}, {"problem": "x", "steps": ["y"], "id": "1"}]', 422),
    (json.dumps({"problem": "x", "steps": ["y"], **{str(i): i for i in range(200)}}).encode(), 422),
    (json.dumps({"problem": "x", "steps": ["y"] * 1001}).encode(), 413),
    (json.dumps([{"problem": "x", "steps": ["y"]}] * 257).encode(), 413),
    (json.dumps({"problem": "x", "steps": ["word " * 3000]}).encode(), 422),
    (json.dumps({"problem": "x", "steps": ["word " * 20_000]}).encode(), 413),
    (b" " * (8 << 20) + b"{}", 413),
]


@pytest.mark.parametrize("path", ["/score", "/token-values"])
@pytest.mark.parametrize(("body", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_refused_in_one_sentence(server, path, body, status):
    found, reply = server.send(path, raw=body)
    assert 400 <= found < 500
    assert found == status or path == "/token-values"
    assert list(reply) == ["error"]
    assert "\n" not in reply["error"]
    assert "Traceback" not in reply["error"]
    assert server.send("/score", {"problem": "still", "steps": ["there"]})[0] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["problem", "steps", "solution", "id", "ids", "n_prompt", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(body=JSON, path=st.sampled_from(["/score", "/token-values"]))
def test_no_json_is_a_fault_of_the_server(server, body, path):
    try:
        raw = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    status, reply = server.send(path, raw=raw)
    assert status == 200 or 400 <= status < 500
    assert status == 200 or list(reply) == ["error"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"ids": [1, 2], "n_prompt": 2}], "row 1: n_prompt is 2 of 2 ids, which leaves no response"),
        ([{"ids": [1, 2], "n_prompt": 0}], "0.n_prompt"),
        ([{"ids": [], "n_prompt": 1}], "leaves no response"),
        ([{"ids": [1, -2], "n_prompt": 1}], "outside of the vocabulary"),
        ([{"ids": [1, 10**6], "n_prompt": 1}], "outside of the vocabulary"),
        ([{"ids": [1, 2.0], "n_prompt": 1}], "0.ids.1"),
        ([{"ids": [1, True], "n_prompt": 1}], "0.ids.1"),
        ([{"ids": [1, 2], "n_prompt": 1, "x": 1}], "0.x"),
        ([{"ids": [1] * 2000, "n_prompt": 1}], "needs 2,000 tokens, this server takes 1,024"),
        ({"ids": [1, 2]}, "expected a list of {ids, n_prompt}"),
    ],
)
def test_rows_of_tokens_are_checked(server, rows, said):
    status, reply = server.send("/token-values", rows)
    assert status in (413, 422)
    assert said in reply["error"]


def test_other_requests(server):
    assert server.send("/health") == (200, {"status": "ok"})
    assert server.send("/nowhere")[0] == 404
    assert server.send("/score")[0] == 405
    assert server.send("/score", raw=b"{}", headers={"Content-Type": "text/plain"})[0] == 415
    status, schema = server.send("/openapi.json")
    assert status == 200
    asked = schema["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"][0]
    assert set(asked["properties"]) == set(SolutionRecord.model_fields)
    reply = schema["paths"]["/score"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"][0]
    scored = server.send("/score", {"problem": "x", "steps": ["y"]})[1]
    assert set(scored) == set(reply["properties"]) - {"votes"}


def test_a_body_without_an_end_and_no_http_at_all(server):
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00 no http\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as one:
            one.sendall(sent)
            assert b" 4" in one.recv(4096).split(b"\r\n")[0]
    with socket.create_connection((host, int(port)), timeout=20) as one:  # goes away in the middle
        one.sendall(
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    assert server.send("/health")[0] == 200


def test_the_key(implicit):
    with running(implicit, key="s3cret") as one:
        body = {"problem": "x", "steps": ["y"]}
        for headers in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": "s3cret"},
            {"Authorization": "Bearer s3cret2"},
        ):
            status, reply = one.send("/score", body, headers=headers)
            assert status == 401
            assert "s3cret" not in reply["error"]
            assert one.send("/metrics", headers=headers)[0] == 401
        assert one.send("/score", body, headers={"Authorization": "Bearer s3cret"})[0] == 200
        assert one.send("/health")[0] == 200


def test_too_much_that_waits_is_refused_for_a_moment(implicit):
    with running(implicit, limits=ServerLimits(waiting_tokens=1)) as one:
        entered, goes_on = threading.Event(), threading.Event()
        score = implicit.score

        def slow(batch):
            entered.set()
            assert goes_on.wait(30)
            return score(batch)

        implicit.score = slow
        try:
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(one.send, "/score", {"problem": "x", "steps": ["y"]})
                assert entered.wait(30)
                status, reply = one.send("/score", {"problem": "z", "steps": ["y"]})
                goes_on.set()
                assert (status, first.result()[0]) == (503, 200)
                assert "try again" in reply["error"]
        finally:
            del implicit.score
        assert one.send("/score", {"problem": "z", "steps": ["y"]})[0] == 200


def test_what_fails_spoils_no_other_and_shows_in_health(implicit, caplog):
    score = implicit.score

    def failing(batch):
        if any(len(one) > 60 for one in batch):
            raise RuntimeError("secret details")
        return score(batch)

    good, bad = {"id": "a", "problem": "x", "steps": ["y"]}, {"id": "b", "problem": "x", "steps": ["y" * 90]}
    with running(implicit, batch_tokens=10_000) as one:
        implicit.score = failing
        try:
            with ThreadPoolExecutor(2) as pool:
                replies = list(pool.map(lambda body: one.send("/score", body), [good, bad]))
            assert [status for status, _ in replies] == [200, 500]
            assert replies[1][1] == {"error": "the model failed on this request; the server's log says more"}
            assert "secret details" in caplog.text
            assert one.send("/health")[0] == 200
            for _ in range(3):
                one.send("/score", bad)
            assert one.send("/health")[0] == 503
            assert one.send("/score", good)[0] == 200
            assert one.send("/health")[0] == 200
        finally:
            del implicit.score


def test_a_fault_of_the_worker_itself_leaves_nobody_waiting(implicit, monkeypatch):
    from prmbench.serving import worker

    with running(implicit) as one:
        monkeypatch.setattr(worker, "plan_batches", lambda *_: 1 / 0)
        assert one.send("/score", {"problem": "x", "steps": ["y"]})[0] == 500
        monkeypatch.undo()
        assert one.send("/score", {"problem": "x", "steps": ["y"]})[0] == 200


def test_closing_finishes_what_waits(implicit, solutions):
    from prmbench.serving.metrics import Metrics
    from prmbench.serving.worker import Busy, ScoringWorker

    worker = ScoringWorker(implicit, Metrics(), batch_tokens=300)
    jobs = [ScoringJob(implicit.encode(s.problem, s.steps), s) for s in solutions]
    worker.submit(jobs)
    worker.close()
    check_same([json.loads(job.done.result(0).line()) for job in jobs], score_solutions(implicit, solutions))
    with pytest.raises(Busy):
        worker.submit(jobs)
    worker.close()


def test_a_model_behind_an_address_gives_the_values_of_the_model(implicit, server, solutions):
    remote = RemoteRewardModel(RewardServer(server.url))
    traces = [implicit.encode(s.problem, s.steps) for s in solutions]
    for found, wanted in zip(remote.token_values(traces), implicit.token_values(traces), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert remote.card.scale() == implicit.card.scale()
    assert (remote.max_length, remote.card.objective) == (1024, "ipvrm")


def test_a_large_batch_goes_in_portions(tiny, solutions):
    model = load_reward_model(tiny, kind="endo")
    with running(model, limits=ServerLimits(traces=4, body_bytes=6000)) as one:
        remote = RemoteRewardModel(RewardServer(one.url))
        traces = [model.encode(s.problem, s.steps) for s in solutions]
        found = remote.token_values(traces)
        for mine, wanted in zip(found, model.token_values(traces), strict=True):
            np.testing.assert_allclose(mine, wanted, atol=2e-4)
        assert remote.weighted_total(found[0]) == model.weighted_total(found[0])


def test_a_step_valued_model_behind_an_address_is_refused(marked):
    with running(marked) as one:
        with pytest.raises(UserError, match="serves a model of kind classifier, which gives no values of tokens"):
            RemoteRewardModel(RewardServer(one.url))
        assert one.send("/token-values", [])[0] == 422


def test_the_client_is_patient_and_says_what_is_wrong(implicit, server, monkeypatch):
    monkeypatch.setenv("WRONG", "no")
    with running(implicit, key="right") as one, pytest.raises(UserError, match=r"key was refused; .* variable WRONG"):
        RewardServer(one.url, "WRONG").describe()
    with pytest.raises(UserError, match=r"no answer after 3 tries .*refused.*; is prmbench serve running there"):
        RewardServer(one.url, retries=2, wait=0.01).describe()  # it has ended
    with pytest.raises(UserError, match="is no address"):
        RewardServer("http://")
    with pytest.raises(UserError, match=r"the request was refused \(row 1: n_prompt is 5 of 1 ids"):
        RewardServer(server.url).token_values([TokenRow(ids=[1], n_prompt=5)])


def test_the_client_survives_faults_that_pass(implicit, server, monkeypatch):
    """503, then a connection that ends, then the reply."""
    import http.server

    faults = ["503", "drop", "garbage"]

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            fault = faults.pop(0) if faults else None
            if fault == "503":
                self.send_response(503)
                self.send_header("Retry-After", "0")
                self.end_headers()
            elif fault == "drop":
                self.connection.close()
            else:
                with urllib.request.urlopen(server.url + self.path) as reply:
                    body = b"<html>" if fault == "garbage" else reply.read()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        client = RewardServer(f"http://user:pass@127.0.0.1:{proxy.server_port}/", wait=0.01)
        with pytest.raises(UserError, match="the reply is not what prmbench serve gives") as caught:
            client.describe()
        assert "pass" not in str(caught.value)
        assert client.describe().subject.kind == "implicit"
        proxy.shutdown()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server-key-variable", "NOT_SET"], "--server-key-variable NOT_SET: the environment has no such variable"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: no address of this machine"),
        (["--protocol", "process"], "--protocol: goes with --threshold"),
        (["--protocol", "proces", "--threshold", "0"], "--protocol proces"),
        (["--threshold", "x"], "x: no such file; expected an entry"),
    ],
)
def test_mistakes_on_the_command_line(tiny, tiny_tuned, arguments, said):
    done = CliRunner().invoke(
        app, ["serve", "--rm", str(tiny_tuned), "--reference", str(tiny), "--port", "0", *arguments]
    )
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)


def test_a_port_that_is_taken(tiny):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(app, ["serve", "--rm", str(tiny), "--port", port])
    assert f"--port {port}: cannot be listened at" in str(done.exception)


def test_without_the_extra(tiny, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("prmbench.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(app, ["serve", "--rm", str(tiny)])
    assert "prmbench serve needs the package uvicorn: pip install" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_cleanly(tiny, stop):
    command = [sys.executable, "-m", "prmbench", "serve", "--rm", str(tiny), "--kind", "endo", "--port", "0"]
    environment = os.environ | {"PRMBENCH_SERVE_KEY": "k", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("serving tiny (endo) at http://127.0.0.1:"), line
        url = line.split(" at ")[1].split(",")[0]
        request = urllib.request.Request(
            f"{url}/score",
            b'{"problem": "x", "steps": ["y"]}',
            {"Content-Type": "application/json", "Authorization": "Bearer k"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.loads(reply.read())["n_tokens"] == [1]
        process.send_signal(stop)
        started = time.monotonic()
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n"), error
        assert time.monotonic() - started < 20
        assert "Traceback" not in error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_list_is_answered_with_a_list_in_every_encoding_of_json(server, encoding):
    body = [{"problem": "x", "steps": ["y"]}, {"problem": "x", "steps": ["z"]}]
    status, found = server.send(
        "/score", raw=json.dumps(body).encode(encoding), headers={"Content-Type": "application/json"}
    )
    assert (status, [one["id"] for one in found]) == (200, ["1", "2"])


def test_no_path_sends_elsewhere(server):
    status, found = server.send("/score/", {"problem": "x", "steps": ["y"]}, headers={"Host": "elsewhere.example"})
    assert status == 404
    assert "no such path" in found["error"]
