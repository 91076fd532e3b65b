"""Guided search on real vLLM: paths grow by its own prefix cache."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import support
from transformers import AutoTokenizer

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.policy import Policy
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.compute import shape_of
from prmbench.search.drive import run_searches
from prmbench.search.methods import METHODS, Setting
from prmbench.search.paths import Task
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds

pytestmark = pytest.mark.slow


def test_searches_on_vllm(vllm_installed, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    tiny = support.save_checkpoint(tmp_path / "tiny", hidden_size=128, intermediate_size=128)
    options = LoadOptions(device="cpu", dtype="float32")
    engines = {name: load_engine(name, tiny, options, "tiny") for name in ("hf", "vllm")}
    prompt = find_prompt("number")
    encoder = TraceEncoder(AutoTokenizer.from_pretrained(tiny))
    policies = {name: Policy(engine, encoder, "tiny", "x") for name, engine in engines.items()}
    task = Task("p", "What is 2 + 3?", encoder.prompt_ids(prompt.render("What is 2 + 3?")))
    assert shape_of(engines["vllm"]) == shape_of(engines["hf"])
    model = load_reward_model(tiny, kind="endo")
    convention = Convention.of(describe(model, "m", "m"))
    ends = StepEnds(encoder.tokenizer, (" ", "e", "1"))

    def search(name, method, setting, params):
        sampler = PolicySampler(policies[name], ends, params, 0)
        scorer = ModelScorer(model, policies[name], prompt, "own", convention)
        with scorer.keeping():
            return run_searches([(task, METHODS[method](setting))], sampler, scorer)[0]

    # Without chance both engines find the same, step by step, and the same as a completion sampled at once.
    greedy = SamplingParams(max_new_tokens=16, temperature=0)
    for method in ("beam", "dvts", "particles"):
        found = {name: search(name, method, Setting(2, width=2, key="p"), greedy) for name in policies}
        ids = {name: one.candidates[0].ids.tolist() for name, one in found.items()}
        assert ids["vllm"] == ids["hf"]
        (whole,) = engines["vllm"].generate([Request(task.prompt, "p", 0)], policies["vllm"].stop, greedy, 0)
        assert ids["vllm"] == whole.ids.tolist()
        assert [c.sampled for c in found["vllm"].costs] == [c.sampled for c in found["hf"].costs]
        assert [c.flops for c in found["vllm"].costs] == pytest.approx([c.flops for c in found["hf"].costs])
    # With chance a path's steps end where they should, a search comes out the same again, and it raises the score.
    params = SamplingParams(max_new_tokens=16)
    one, again = (search("vllm", "beam", Setting(6, width=3, key="p"), params) for _ in range(2))
    assert [path.ids.tolist() for path in one.candidates] == [path.ids.tolist() for path in again.candidates]
    for path in one.candidates:
        edges = [0, *path.ends]
        for start, end in itertools.pairwise(edges):
            step = path.ids[start:end].tolist()
            assert not any(ends.ended(step[:n]) for n in range(1, len(step)))
            assert end == len(path.ids) or ends.ended(step)
    plain = search("vllm", "best-of-n", Setting(6), params)
    assert one.candidates[0].score > np.mean([path.score for path in plain.candidates])
    engines["vllm"].close()
