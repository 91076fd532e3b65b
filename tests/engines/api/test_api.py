"""The engine that is a server, against one on the loopback that fails in every way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import support
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.engines.api.engine import END, ApiEngine, chat_encoder
from prmbench.engines.api.service import Service
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.policies.policy import load_policy
from prmbench.reward_models.loading import load_reward_model

PARAMS = SamplingParams(max_new_tokens=20)


def engine(stub, **service):
    return ApiEngine("m", Service(base_url=stub.url, **service))


def requests(n=3, encoder=None):
    encoder = encoder or chat_encoder(TokenOptions())
    return [Request(encoder.prompt_ids(f"What is {i} + 1?"), f"p{i}", 0) for i in range(n)]


def texts(found):
    return [bytes(ids[ids < END].tolist()).decode() for ids in (one.ids for one in found)]


@pytest.mark.parametrize("text", ["plain", "é ½ 😀 \n\n\t\x00 \\boxed{1}", " a  b ", "<end>x", "", "한국어"])
def test_text_goes_through_as_it_is(stub, text):
    encoder = chat_encoder(TokenOptions(system="Be brief: ½"))
    stub.answer = lambda _: text
    (found,) = engine(stub).generate([Request(encoder.prompt_ids(text), "k", 0)], frozenset(), PARAMS, 0)
    assert [one["content"] for one in stub.asked[-1]["messages"]] == ["Be brief: ½", text]
    assert encoder.tokenizer.decode(found.ids, skip_special_tokens=True) == text
    assert (found.ids[-1], found.finish_reason) == (END, "stop")


def test_what_is_asked(stub):
    found = engine(stub).generate(requests(), frozenset(), SamplingParams(temperature=0.6, top_p=0.9, top_k=20), 7)
    assert texts(found) == [r"so \boxed{-1}"] * 3
    asked = sorted(stub.asked[1:], key=lambda body: body["messages"][0]["content"])
    assert [body["messages"] for body in asked] == [
        [{"role": "user", "content": f"What is {i} + 1?"}] for i in range(3)
    ]
    assert {(b["model"], b["temperature"], b["top_p"], b["top_k"], b["max_tokens"]) for b in asked} == {
        ("m", 0.6, 0.9, 20, 2048)
    }
    assert len({body["seed"] for body in asked}) == 3
    assert set(stub.keys) == {"Bearer sk-secret-1234567890"}


def test_nothing_is_paid_for_twice(stub):
    first = engine(stub).generate(requests(), frozenset(), PARAMS, 0)
    paid = len(stub.asked)
    stub.answer = lambda _: "something else"
    again = engine(stub)
    found = again.generate(requests(), frozenset(), PARAMS, 0)
    assert texts(found) == texts(first)
    assert len(stub.asked) == paid
    assert again.usage() == {
        "requests": 0, "found": 3, "prompt_tokens": 0, "completion_tokens": 0, "cut": 0, "refused": 0, "models": ["served-1"],
    }  # fmt: skip
    again.generate(requests(), frozenset(), PARAMS, 1)  # another seed is another question
    again.generate(requests(), frozenset(), PARAMS.model_copy(update={"temperature": 0.5}), 0)
    assert len(stub.asked) == paid + 6


def test_counts_and_cost(stub):
    found = engine(stub, prices=(2.0, 4.0))
    found.generate(requests(5), frozenset(), PARAMS, 0)
    stub.finish = "length"
    (cut,) = found.generate([Request(chat_encoder(TokenOptions()).prompt_ids("x"), "k", 0)], frozenset(), PARAMS, 0)
    assert (cut.finish_reason, cut.ids[-1] == END) == ("length", False)
    stub.finish, stub.refusal = "stop", "I will not"
    (refused,) = found.generate([Request(chat_encoder(TokenOptions()).prompt_ids("y"), "k", 0)], frozenset(), PARAMS, 0)
    assert refused.ids.tolist() == [END]
    usage = found.usage()
    assert (usage["requests"], usage["cut"], usage["refused"]) == (7, 1, 1)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (70, 35)
    assert usage["cost"] == pytest.approx((70 * 2 + 35 * 4) / 1e6)


@pytest.mark.parametrize(
    "trouble", [(429, b"{}"), (500, b"oops"), (503, b""), (408, b"{}"), "drop", "partial", (200, b"{broken"), {"choices": []},
                {"choices": None}, (200, b"[]"), (200, b'"text"')]
)  # fmt: skip
def test_what_passes_is_tried_again(stub, trouble):
    made = engine(stub)
    stub.replies = [trouble, trouble]
    assert texts(made.generate(requests(1), frozenset(), PARAMS, 0)) == [r"so \boxed{-1}"]
    assert len(stub.asked) == 4
    assert made.usage()["requests"] == 1


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ((401, b'{"error": {"message": "Incorrect API key provided: sk-secret-1234567890"}}'), "is the environment variable"),
        ((403, b"{}"), "may not use this model"),
        ((404, b'{"error": {"message": "no model m"}}'), "no such address or model .*no model m"),
        ((400, b'{"error": {"message": "top_k is not known"}}'), "was refused .*top_k is not known"),
        ((429, b"{}"), "lower the concurrency"),
        ((500, b"{}"), "the server failed"),
        ("drop", "cannot be reached"),
        ({"choices": []}, "held no completion"),
        ((200, b"<html>"), "held no completion"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_one_sentence_and_keeps_what_was_answered(stub, trouble, message):
    made = engine(stub, retries=1, concurrency=1)
    made.generate(requests(2), frozenset(), PARAMS, 0)
    stub.replies = [trouble] * 9
    with pytest.raises(UserError, match=message) as error:
        made.generate(requests(4), frozenset(), PARAMS, 0)
    assert "kept" in str(error.value)
    assert "sk-" not in str(error.value)
    stub.replies = []
    before = len(stub.asked)
    made.generate(requests(4), frozenset(), PARAMS, 0)
    assert len(stub.asked) == before + 2


def test_a_prompt_that_is_too_long_fails_alone(stub):
    made = engine(stub, concurrency=1)
    stub.replies = [(400, b'{"error": {"message": "This model\'s maximum context length is 10 tokens."}}')]
    found = made.generate(requests(3), frozenset(), PARAMS, 0)
    assert [one.finish_reason for one in found] == ["length", "stop", "stop"]
    assert len(found[0].ids) == 0


def test_models_that_know_the_other_name_of_the_limit(stub):
    text = b'{"error": {"message": "Unsupported parameter: \'max_tokens\'. Use \'max_completion_tokens\' instead."}}'
    stub.replies = [(400, text)]
    made = engine(stub)
    made.generate(requests(1), frozenset(), PARAMS, 0)
    assert stub.asked[-1]["max_completion_tokens"] == 20
    assert "max_tokens" not in stub.asked[-1]


def test_no_more_at_once_than_asked_for(stub):
    stub.after = 0.05
    engine(stub, concurrency=3).generate(requests(12), frozenset(), PARAMS, 0)
    assert 2 <= stub.most <= 3


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "", "http://", "file:///etc/passwd"])
def test_an_address_is_checked(url):
    if url == "":
        assert Service(base_url=url).address.startswith("https://api.openai.com")
        return
    with pytest.raises(ArgumentError, match=r"^`base_url="):
        Service(base_url=url)


def test_nobody_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="cannot be reached"):
        ApiEngine("m", Service(base_url="http://127.0.0.1:9/v1", retries=0))


def test_secrets_are_not_public():
    service = Service(base_url="http://me:pass@host:1234/v1/?key=abc#x")
    assert service.public_address == "http://host:1234/v1"


def test_only_critics_are_scored(stub):
    options = LoadOptions(service=Service(base_url=stub.url))
    assert load_reward_model("m", engine="api", load_options=options).kind == "critic"
    for kind in ("endo", "implicit", "judge", "classifier"):
        with pytest.raises(ArgumentError, match=f"{kind} needs log-probs"):
            load_reward_model("m", engine="api", kind=kind, load_options=options)
    with pytest.raises(ArgumentError, match="renders conversations itself"):
        load_policy("m", find_prompt("boxed"), options, engine="api", tokens=TokenOptions(template_args={"a": 1}))
    with pytest.raises(ValueError, match="texts alone"):
        engine(stub).score([np.arange(3)], [1], frozenset({"logprob"}))


@pytest.fixture
def traces(tmp_path):
    return support.write_traces(tmp_path / "made.jsonl", 12)


def command(stub, traces, output, *more):
    return [
        "eval", "--rm", "vendor/critic:1", "--engine", "api", "--base-url", stub.url, "--data", str(traces),
        "--output", str(output), *more,
    ]  # fmt: skip


def test_a_critic_from_the_command_line(stub, traces, tmp_path):
    stub.answer = lambda text: r"\boxed{1}" if "wrong" in text else r"\boxed{-1}"
    done = CliRunner().invoke(app, command(stub, traces, tmp_path / "out", "--price", "1", "--price", "2"))
    assert done.exit_code == 0, done.output
    assert "server: 12 requests answered, 0 more found from before" in done.stderr
    text = (tmp_path / "out" / "entry.json").read_text()
    fields = json.loads(text)
    assert fields["subject"]["kind"] == "critic"
    assert fields["subject"]["facts"]["served_model"] == "served-1"
    assert fields["provenance"]["run"]["service"]["requests"] == 12
    assert fields["provenance"]["run"]["service"]["cost"] == pytest.approx(12 * (10 + 2 * 5) / 1e6)
    everything = text + (tmp_path / "out" / "items.jsonl").read_text() + done.output
    assert "sk-secret" not in everything
    asked = len(stub.asked)
    again = CliRunner().invoke(app, command(stub, traces, tmp_path / "other"))
    assert again.exit_code == 0, again.output
    assert len(stub.asked) == asked
    assert "server: 0 requests answered, 12 more found from before" in again.stderr
    assert (tmp_path / "other" / "items.jsonl").read_bytes() == (tmp_path / "out" / "items.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "hf", "--base-url", "http://x/v1"], "--base-url: goes with --engine api"),
        (["--engine", "api", "--price", "1"], "--price 1.0: expected two"),
        (["--engine", "api", "--base-url", "x"], "--base-url x: expected an address"),
        (["--engine", "ap"], "--engine ap: expected hf, vllm, api"),
    ],
)
def test_mistakes_are_one_sentence(traces, options, message):
    done = CliRunner().invoke(app, ["eval", "--rm", "m", "--data", str(traces), *options])
    assert message in str(done.exception)


def test_a_policy(stub, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"id": "{i}", "problem": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(4)))
    stub.answer = lambda text: rf"\boxed{{{int(text[0]) + 1}}}" if text[0] in "02" else r"\boxed{9}"
    options = ["--policy", "m", "--engine", "api", "--base-url", stub.url, "--subset", str(file), "--n", "2", "--json"]
    done = CliRunner().invoke(app, ["eval", *options, "--prompt", "bare", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    entry = json.loads(done.stdout)
    assert entry["metrics"]["mean"]["average"]["value"] == 0.5
    assert entry["provenance"]["engine"] == "api"
    assert entry["provenance"]["run"]["service"]["requests"] == 8
    again = CliRunner().invoke(app, ["eval", "--from-items", str(tmp_path / "out"), "--json"])
    assert json.loads(again.stdout)["metrics"] == entry["metrics"]


@pytest.mark.slow
def test_killed_and_run_again_pays_for_each_request_once(stub, traces, tmp_path):
    stub.after = 0.15
    run = [sys.executable, "-m", "prmbench", *command(stub, traces, tmp_path / "out", "--concurrency", "2")]
    running = subprocess.Popen(run, env=os.environ.copy(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(stub.asked) < 6:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    stub.after = 0.0
    subprocess.run(run, env=os.environ.copy(), check=True, capture_output=True, timeout=120)
    asked = Counter(json.dumps(body["messages"]) for body in stub.asked)
    assert len(asked) == 13  # a first word, and twelve traces
    assert sum(asked.values()) <= 13 + 2  # those that were under way at the kill have no answer that could be kept
