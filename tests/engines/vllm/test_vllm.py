"""Real vLLM, where it is installed: `make vllm` for a CPU, the extra `vllm` for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import support
from transformers import AutoTokenizer

from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.reward_models.base import longest_scored
from prmbench.reward_models.loading import load_reward_model


@pytest.fixture(scope="module")
def engines(vllm_installed, tiny, one_process):
    options = LoadOptions(device="cpu", dtype="float32")
    found = {name: load_engine(name, tiny, options, "tiny") for name in ("hf", "vllm")}
    yield found
    found["vllm"].close()


TENSOR_PARALLEL = """
import json, sys
from pathlib import Path
import numpy as np
from prmbench.cli.app import leave
from prmbench.engines.registry import load_engine
from prmbench.engines.load import LoadOptions

if __name__ == "__main__":
    engine = load_engine("vllm", Path(sys.argv[1]), LoadOptions("cpu", "float32", tensor_parallel=2), "tiny")
    found = engine.score([np.arange(5, 20), np.arange(30, 38)], [1, 1], frozenset({"logprob"}))
    Path(sys.argv[2]).write_text(json.dumps([one.logprob.tolist() for one in found]))
    engine.close()
    leave(0)  # as `prmbench` does
"""


class TestReal:
    pytestmark = pytest.mark.slow

    def test_greedy_outputs_equal(self, engines, tiny):
        requests = [Request(p, f"k{i}", 0) for i, p in enumerate(support.token_prompts(tiny))]
        params = SamplingParams(temperature=0, max_new_tokens=16)
        outputs = {name: engine.generate(requests, frozenset({3, 9}), params, 0) for name, engine in engines.items()}
        same = [
            (a.ids.tolist(), a.finish_reason) == (b.ids.tolist(), b.finish_reason)
            for a, b in zip(outputs["hf"], outputs["vllm"], strict=True)
        ]
        assert np.mean(same) >= 0.9  # a tie of two logits may fall either way

    def test_logprobs_and_topk_agree(self, engines, tiny):
        sequences = support.token_prompts(tiny)
        first = [1 + i % 3 for i in range(len(sequences))]
        want = frozenset({"logprob", "topk"})
        found = {name: engine.score(sequences, first, want, top=4) for name, engine in engines.items()}
        for ids, start, a, b in zip(sequences, first, found["hf"], found["vllm"], strict=True):
            assert b.logprob.shape == (len(ids) - start,)
            assert b.logprob == pytest.approx(a.logprob, abs=support.LOGPROB_TOLERANCE)
            assert b.topk_logprobs == pytest.approx(a.topk_logprobs, abs=support.LOGPROB_TOLERANCE)
            assert (a.topk_ids == b.topk_ids).mean() > 0.9

    def test_a_completion_depends_on_its_own_seed_alone(self, engines, tiny):
        engine, prompt = engines["vllm"], support.token_prompts(tiny)[0]
        params = SamplingParams(max_new_tokens=12)
        whole = engine.generate([Request(prompt, "k", i) for i in range(6)], frozenset({3}), params, 7)
        part = engine.generate([Request(prompt, "k", i) for i in (4, 1)], frozenset({3}), params, 7)
        assert [c.ids.tolist() for c in part] == [whole[4].ids.tolist(), whole[1].ids.tolist()]
        assert len({tuple(c.ids.tolist()) for c in whole}) > 1
        other = engine.generate([Request(prompt, "k", 1)], frozenset({3}), params, 8)
        assert other[0].ids.tolist() != whole[1].ids.tolist()

    def test_stops_and_truncation(self, engines, tiny):
        prompt = support.token_prompts(tiny)[0]
        params = SamplingParams(temperature=0, max_new_tokens=5)
        (free,) = engines["vllm"].generate([Request(prompt, "k", 0)], frozenset(), params, 0)
        assert (len(free.ids), free.finish_reason) == (5, "length")
        stop = int(free.ids[2])
        (cut,) = engines["vllm"].generate([Request(prompt, "k", 0)], frozenset({stop}), params, 0)
        assert cut.finish_reason == "stop"
        assert int(cut.ids[-1]) == stop  # the end of turn belongs to the completion

    def test_the_longest_text_that_it_scores(self, engines, tiny):
        """One position stays free; `longest_scored` is what a log-ratio takes at most."""
        engine = engines["vllm"]
        ids = np.arange(longest_scored(engine, engine.max_length)) % 300
        (found,) = engine.score([ids], [1], frozenset({"logprob"}))
        assert len(found.logprob) == len(ids) - 1 == engine.max_length - 2
        assert longest_scored(engines["hf"], 7) == 7
        assert longest_scored(engine, None) is None

    def test_what_it_does_not_give_is_said(self, engines, tiny):
        with pytest.raises(ValueError, match=r"vLLM does not give \['logit'\]"):
            engines["vllm"].score(support.token_prompts(tiny)[:1], [1], frozenset({"logit"}))

    def test_data_parallel_gives_what_one_engine_gives(self, engines, tiny):
        two = load_engine("vllm", tiny, LoadOptions(device="cpu", dtype="float32", data_parallel=2), "tiny")
        one, sequences = engines["vllm"], support.token_prompts(tiny, 7)
        assert (two.vocabulary, two.max_length, two.eos_ids()) == (one.vocabulary, one.max_length, one.eos_ids())
        assert (two.device_and_dtype(), two.facts()) == (one.device_and_dtype(), one.facts())
        requests = [Request(p, f"k{i}", i) for i, p in enumerate(sequences)]
        found, expected = (
            engine.generate(requests, frozenset({3}), SamplingParams(max_new_tokens=12), 5) for engine in (two, one)
        )
        assert [c.ids.tolist() for c in found] == [c.ids.tolist() for c in expected]
        assert two.generate(requests[:1], frozenset({3}), SamplingParams(max_new_tokens=12), 5)[0].ids.tolist() == (
            expected[0].ids.tolist()
        )
        with pytest.raises(ValueError, match="does not give"):
            two.score(sequences, [1] * 7, frozenset({"logit"}))
        scored, alone = (engine.score(sequences, [1] * 7, frozenset({"logprob"})) for engine in (two, one))
        for a, b in zip(scored, alone, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        processes = [worker.process for worker in two._workers]
        processes[1].kill()
        with pytest.raises(UserError, match=r"tiny: a vLLM process ended .exit code -9"):
            two.score(sequences, [1] * 7, frozenset({"logprob"}))
        two.close()
        assert not any(process.is_alive() for process in processes)

    def test_tensor_parallel_gives_what_one_device_gives(self, engines, tiny, tmp_path):
        """In a program of its own: vLLM reads its settings once a process."""
        script = tmp_path / "two.py"
        script.write_text(TENSOR_PARALLEL)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", script, tiny, tmp_path / "found.json"],
            capture_output=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        ids = [np.arange(5, 20), np.arange(30, 38)]
        alone = engines["vllm"].score(ids, [1, 1], frozenset({"logprob"}))
        for found, expected in zip(json.loads((tmp_path / "found.json").read_text()), alone, strict=True):
            assert found == pytest.approx(expected.logprob.tolist(), abs=1e-4)

    def test_a_policy_samples_and_verifies(self, engines, tiny, tmp_path):
        from prmbench.benchmarks.policy.run import evaluate_policy
        from prmbench.data.problems import Problem
        from prmbench.data.tokens import TraceEncoder

        policy = Policy(engines["vllm"], TraceEncoder(AutoTokenizer.from_pretrained(tiny)), "tiny", "hash")
        sets = {"s": [Problem("a", "1 + 1?", "2"), Problem("b", "2 + 2?", "4"), Problem("c", "1 + 1? " * 600, "2")]}
        params = SamplingParams(max_new_tokens=6)
        entry, _ = evaluate_policy(
            policy, sets, name="t", source="t", output=tmp_path, n=2, params=params, prompt="bare", n_resamples=10
        )
        assert entry.provenance.engine == "vllm"
        assert entry.metrics.subsets["s"].overlong_prompts == 1
        assert json.loads((tmp_path / "s" / "run.json").read_text())["engine"] == "vllm"


def test_what_it_cannot_score(tiny):
    with pytest.raises(UserError, match="`engine=vllm`: gives log-probs only, endo needs logits; use the engine hf"):
        load_reward_model(tiny, kind="endo", engine="vllm")
    with pytest.raises(UserError, match=r"`engine=vlm`: expected hf, vllm, api .did you mean 'vllm'"):
        load_reward_model(tiny, reference=tiny, engine="vlm")


def test_devices_that_cannot_be_shared(tiny):
    with pytest.raises(UserError, match=r"`data_parallel=1000`: there are \d+ processor cores"):
        load_engine("vllm", tiny, LoadOptions(device="cpu", data_parallel=1000), "tiny")
    for name in ("tensor", "data"):
        with pytest.raises(UserError, match=f"`{name}_parallel=2`: only `engine=vllm`"):
            load_engine("hf", tiny, LoadOptions(device="cpu", **{f"{name}_parallel": 2}), "tiny")


def test_without_vllm_it_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"`engine=vllm`: vLLM is not installed: pip install 'vllm[<>=0-9.,]+'$"):
        load_engine("vllm", tiny, LoadOptions(device="cpu"), "tiny")
