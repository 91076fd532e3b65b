from __future__ import annotations

import functools

import numpy as np
import pytest
import support
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.generate import generate
from prmbench.engines.hf.token_choice import choose
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.load import LoadOptions
from prmbench.engines.sampling import Request, SamplingParams, uniforms
from prmbench.errors import UserError

STOP = frozenset({7, 11, 13})


@pytest.fixture(scope="module")
def engine():
    return HFEngine(support.tiny_llama(40, seed=2))


def slow(engine, request, stop, params, seed):
    """One token at a time, the whole sequence again for each, no cache, no batch."""
    ids, written = request.prompt.tolist(), []
    noise = uniforms(seed, request.key, request.sample, params.max_new_tokens)
    for t in range(params.max_new_tokens):
        with torch.no_grad():
            logits = engine.model(torch.tensor([ids])).logits[:, -1].float()
        token = int(choose(logits, torch.tensor([noise[t]]), params)[0])
        ids.append(token)
        written.append(token)
        if token in stop:
            return written, "stop"
    return written, "length"


def make_requests(n=12):
    rng = np.random.default_rng(0)
    return [Request(rng.integers(0, 40, size=rng.integers(1, 9)), f"p{i // 3}", i % 3) for i in range(n)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_new_tokens=25),
        SamplingParams(max_new_tokens=25, temperature=0.6, top_p=0.8, top_k=9),
        SamplingParams(max_new_tokens=6, temperature=0),
    ],
)
def test_equals_a_plain_loop(engine, params):
    requests = make_requests()
    found = generate(engine, requests, STOP, params, seed=3)
    reasons = set()
    for request, completion in zip(requests, found, strict=True):
        ids, reason = slow(engine, request, STOP, params, 3)
        assert (completion.ids.tolist(), completion.finish_reason) == (ids, reason)
        reasons.add(reason)
    assert "stop" in reasons or params.temperature == 0


def test_a_completion_does_not_depend_on_its_batch(engine):
    requests = make_requests()
    params = SamplingParams(max_new_tokens=20)
    together = generate(engine, requests, STOP, params, seed=1)
    for i in (0, 5, 11):
        assert generate(engine, [requests[i]], STOP, params, seed=1)[0].ids.tolist() == together[i].ids.tolist()


def test_the_cut_at_the_models_length(engine):
    long = Request(np.zeros(1020, dtype=np.int64), "p", 0)
    completion = generate(engine, [long], frozenset(), SamplingParams(max_new_tokens=50), seed=0)[0]
    assert (len(completion.ids), completion.finish_reason) == (4, "length")
    with pytest.raises(ValueError, match="no room"):
        generate(engine, [Request(np.zeros(1024, dtype=np.int64), "p", 0)], STOP, SamplingParams(), seed=0)


def test_room_is_each_requests_own(engine):
    """Beside a prompt near the model's end, and with a room of its own, a request gets what it gets alone."""
    rng = np.random.default_rng(4)
    requests = [Request(rng.integers(0, 40, size=size), f"p{size}", 0) for size in (1020, 3, 1000)]
    requests.append(Request(requests[1].prompt, "p3", 0, room=7))
    params = SamplingParams(max_new_tokens=30)
    found = [one.ids.tolist() for one in generate(engine, requests, frozenset({99}), params, seed=0)]
    assert [len(ids) for ids in found] == [4, 30, 24, 7]
    assert found[3] == found[1][:7]
    assert [generate(engine, [r], frozenset({99}), params, seed=0)[0].ids.tolist() for r in requests] == found


@pytest.mark.slow
def test_greedy_equals_transformers_on_the_real_model(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    prompts = ["What is 12 + 30?", "A train goes 60 km in one hour. How far does it go in three hours?"]
    requests = [
        Request(
            np.array(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": p}], add_generation_prompt=True, return_dict=False
                )
            ),
            p,
            0,
        )
        for p in prompts
    ]
    stop = frozenset({tokenizer.eos_token_id})
    found = generate(HFEngine(model), requests, stop, SamplingParams(temperature=0, max_new_tokens=24), seed=0)
    for request, completion in zip(requests, found, strict=True):
        expected = model.generate(
            torch.tensor(request.prompt)[None], do_sample=False, max_new_tokens=24, pad_token_id=0
        )
        assert completion.ids.tolist() == expected[0, len(request.prompt) :].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_shared_prompt_runs_once_and_changes_nothing(engine, temperature, monkeypatch):
    prompts = [np.array([1, 2, 3, 4, 5]), np.array([6, 8])]
    requests = [Request(prompts[i % 2], f"p{i % 2}", i) for i in range(6)]
    params = SamplingParams(max_new_tokens=20, temperature=temperature)
    rows = []
    forward = engine.trunk.forward

    @functools.wraps(forward)
    def counted(*a, **k):
        rows.append(tuple(k["input_ids"].shape))
        return forward(*a, **k)

    monkeypatch.setattr(engine.trunk, "forward", counted)
    found = generate(engine, requests, STOP, params, seed=1)
    assert rows[0] == (2, 5)  # two prompts for six completions
    assert rows[1][0] == 6
    monkeypatch.undo()
    for request, completion in zip(requests, found, strict=True):
        assert (completion.ids.tolist(), completion.finish_reason) == slow(engine, request, STOP, params, 1)


RECURRENT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}


def recurrent(name):
    torch.manual_seed(0)
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
    made = model(config(**RECURRENT, **({"state_size": 4} if name == "Mamba" else {}))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return HFEngine(made, name.lower())


def test_a_cache_that_does_not_hold_is_an_error():
    """Mamba's states are right as long as no prompt is padded, and wrong beside a longer one; RWKV takes no cache at all."""
    mamba, params = recurrent("Mamba"), SamplingParams(max_new_tokens=12)
    long, short = np.arange(4, 13), np.arange(20, 25)
    requests = [Request(long, "p", i) for i in range(3)]
    for request, found in zip(requests, generate(mamba, requests, STOP, params, seed=0), strict=True):
        assert found.ids.tolist() == slow(mamba, request, STOP, params, 0)[0]
    with pytest.raises(
        UserError, match=r"mamba: a mamba model; its logits come out \d+% off .*, or one sequence at a time"
    ):
        generate(mamba, [*requests, Request(short, "q", 0)], STOP, params, seed=0)
    with pytest.raises(UserError, match=r"rwkv: a rwkv model; its logits come out \d+% off"):
        generate(recurrent("Rwkv"), requests, STOP, params, seed=0)


def test_longrope_ends_where_its_factors_change(tmp_path):
    """Past its original length every earlier state would be another: a cache and a longer neighbour both give wrong values."""
    torch.manual_seed(0)
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config = transformers.Phi3Config(
        **{**RECURRENT, "bos_token_id": 1, "eos_token_id": 2},
        intermediate_size=32,
        num_attention_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        rope_scaling=factors,
    )
    engine = HFEngine(transformers.Phi3ForCausalLM(config).eval())
    request = Request(np.arange(4, 13), "p", 0)
    (found,) = generate(engine, [request], frozenset(), SamplingParams(max_new_tokens=30), seed=0)
    ids, _ = slow(engine, request, frozenset(), SamplingParams(max_new_tokens=30), 0)
    assert engine.max_length == 16
    assert (found.ids.tolist(), found.finish_reason) == (ids[:7], "length")
    engine.model.save_pretrained(tmp_path)
    assert Trunk(tmp_path, LoadOptions(device="cpu"), "x").max_length == 16  # nor does a step-valued model pass it


def test_states_in_float32_of_a_model_in_half_precision():
    """Mamba keeps its residuals in float32, rounded by its bfloat16 weights all the same."""
    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        **{**RECURRENT, "num_hidden_layers": 24}, state_size=4, num_heads=8, head_dim=8, n_groups=1
    )
    engine = HFEngine(transformers.Mamba2ForCausalLM(config).to(torch.bfloat16).eval())
    generate(engine, [Request(np.arange(4, 13), "p", 0)], frozenset(), SamplingParams(max_new_tokens=3), seed=0)
    assert engine.cached_ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_such_error(smollm2, dtype):
    """And each way of batching is looked at once."""
    engine = HFEngine(AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype).eval())
    rng = np.random.default_rng(0)
    prompts = [rng.integers(100, 40_000, size=n) for n in (9, 40, 90)]
    params = SamplingParams(max_new_tokens=3, temperature=0)
    for some in (prompts, prompts[:1] * 3, prompts[:1]):
        generate(engine, [Request(ids, "p", i) for i, ids in enumerate(some)], frozenset(), params, seed=0)
    assert len(engine.cached_ways) == 3
