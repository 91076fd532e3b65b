"""The engine that is a server, against vLLM's own server on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import support

from prmbench.data.prompts import find_prompt
from prmbench.engines.api.service import Service
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.policy import load_policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(vllm_installed, tmp_path_factory):
    """A tiny model that vLLM serves. Heads of width 32: vLLM's kernels for CPUs know no narrower ones."""
    folder = tmp_path_factory.mktemp("served")
    model = support.save_checkpoint(folder / "tiny", hidden_size=128, intermediate_size=128)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--served-model-name", "tiny"]
    log = folder / "log"
    with log.open("w") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        )
    try:
        for _ in range(600):
            assert running.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield model, f"http://127.0.0.1:{port}/v1"
    finally:
        running.terminate()
        running.wait(30)


def test_greedy_texts_are_those_of_the_same_model_here(server, tmp_path, monkeypatch):
    model, url = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prompt, params = find_prompt("boxed"), SamplingParams(temperature=0, max_new_tokens=12)
    here = load_policy(str(model), prompt)
    there = load_policy("tiny", prompt, LoadOptions(service=Service(base_url=url)), engine="api")
    texts = []
    for policy in (here, there):
        problems = [prompt.render(one["problem"][:60]) for one in support.make_traces(8)]
        asked = [Request(policy.encoder.prompt_ids(text), f"p{i}", 0) for i, text in enumerate(problems)]
        found = policy.engine.generate(asked, policy.stop, params, 0)
        decoded = [policy.encoder.tokenizer.decode(one.ids, skip_special_tokens=True) for one in found]
        texts.append([text.rstrip("\ufffd") for text in decoded])  # the server keeps the half of a character back
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 7  # a tie of two logits may fall either way
    usage = there.engine.usage()
    assert usage["requests"] == 8
    assert 0 < usage["completion_tokens"] <= 8 * 12
    assert usage["models"] == ["tiny"]
