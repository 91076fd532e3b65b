from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prmbench.engines.hf.attention import attend_together, shared_attention
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.generate import generate
from prmbench.engines.hf.kv_cache import cache_argument, growing_cache
from prmbench.engines.sampling import Request, SamplingParams, uniforms


class Module(torch.nn.Module):
    """What an attention function reads of its layer."""

    layer_idx, is_causal = 0, True

    def __init__(self, groups):
        super().__init__()
        self.num_key_value_groups = groups


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_transformers_sdpa(groups, queries, masked):
    torch.manual_seed(0)
    query = torch.randn(4, 2 * groups, queries, 8)
    key, value = torch.randn(2, 4, 2, 9, 8)
    mask = torch.rand(4, 1, queries, 9) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True
    options = {"scaling": 0.3, "is_causal": queries > 1}
    with attend_together(growing_cache(support.tiny_llama(20).config)):
        found, _ = shared_attention(Module(groups), query, key, value, mask, **options)
    assert query.shape[1] // key.shape[1] == groups
    expected, _ = sdpa_attention_forward(Module(groups), query, key, value, mask, **options)
    assert found.shape == expected.shape == (4, queries, 2 * groups, 8)
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("masked", [False, True])
def test_a_shared_prompt_equals_one_for_each(masked):
    """Attention of rows to a prompt that stands once, and to their own tokens, against both written out for every row."""
    torch.manual_seed(1)
    model = support.tiny_llama(20)
    cache = growing_cache(model.config)
    prompt, own = torch.randn(2, 1, 2, 7, 8), torch.randn(2, 5, 2, 3, 8)
    query = torch.randn(5, 4, 1, 8)
    mask = torch.rand(5, 1, 1, 10) < 0.7 if masked else None
    module = model.model.layers[0].self_attn
    with attend_together(cache):
        cache.layers[0].update(*prompt)
        cache.layers[0].share(5)
        held = cache.layers[0].update(*own)
        assert cache.get_seq_length() == 10
        found, _ = shared_attention(module, query, *held, mask, scaling=0.4)
    whole = [torch.cat([prompt[i].expand(5, -1, -1, -1), own[i]], 2).double().repeat_interleave(2, 1) for i in (0, 1)]
    scores = (query.double() @ whole[0].transpose(2, 3)) * 0.4
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ whole[1]).transpose(1, 2)
    assert (found - expected).abs().max() < 1e-5


SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPARSE = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 3}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
MODELS = {
    "deepseek v3, latents in the cache": (
        lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**SHAPE, **LATENT, **SPARSE, num_key_value_heads=4)),
        False,
    ),
    "qwen3 next, recurrent states": (
        lambda: Qwen3NextForCausalLM(
            Qwen3NextConfig(
                **SHAPE,
                num_key_value_heads=2,
                head_dim=8,
                num_experts=2,
                num_experts_per_tok=1,
                layer_types=["linear_attention", "full_attention", "linear_attention"],
            )
        ),
        False,
    ),
    "llama": (lambda: support.tiny_llama(40, seed=2), True),
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2)), True),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8)), True),
    "phi, a key head for each query head": (lambda: PhiForCausalLM(PhiConfig(**SHAPE)), True),
    "gemma3, sliding windows": (
        lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(
                **SHAPE,
                num_key_value_heads=2,
                head_dim=8,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            )
        ),
        False,
    ),
}
SLOW = {"qwen3 next, recurrent states"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in MODELS])
def test_sampling_equals_running_everything_again(name):
    """Completions of one prompt, and beside one of another length, against the whole sequence through the model for each token.

    Rows end at different times, so that some are dropped.
    """
    make, shared = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    engine = HFEngine(model)
    cache = growing_cache(model.config)
    with attend_together(cache) as together:
        engine.trunk(input_ids=torch.tensor([[4, 5, 6]]), use_cache=True, **{cache_argument(engine.trunk): cache})
        assert together.may_share() == shared
    stop = frozenset({3, 5})
    prompt, other = np.arange(4, 13), np.arange(20, 25)
    for prompts in ([prompt] * 12, [prompt] * 6 + [other] * 6):
        requests = [Request(ids, "p", i) for i, ids in enumerate(prompts)]
        found = generate(engine, requests, stop, SamplingParams(max_new_tokens=24), seed=0)
        assert len({len(one.ids) for one in found}) > 3
        for request, completion in zip(requests, found, strict=True):
            alone = generate(engine, [request], stop, SamplingParams(max_new_tokens=24), seed=0)[0]
            assert completion.ids.tolist() == alone.ids.tolist()
            whole = torch.tensor([[*request.prompt, *completion.ids]])
            with torch.no_grad():
                logits = model(whole, use_cache=False).logits[0, len(request.prompt) - 1 : -1].double()
            edges = logits.softmax(-1).cumsum(-1)
            noise = uniforms(0, "p", request.sample, 24)[: len(completion.ids)]
            for t, token in enumerate(completion.ids):
                below = float(edges[t, token - 1]) if token else 0.0
                assert below - 1e-4 <= noise[t] <= float(edges[t, token]) + 1e-4


def test_another_attention_is_left_as_it_is():
    model = support.tiny_llama(40)
    model.set_attn_implementation("eager")
    cache = growing_cache(model.config)
    with attend_together(cache) as together:
        model(torch.tensor([[4, 5, 6]]), **{cache_argument(model): cache})
    assert not together.may_share()


def test_half_precision_does_not_share():
    model = support.tiny_llama(40).to(torch.bfloat16)
    cache = growing_cache(model.config)
    with attend_together(cache) as together:
        model(torch.tensor([[4, 5, 6]]), **{cache_argument(model): cache})
    assert together.reached == [0, 1]
    assert not together.may_share()


def test_afterwards_all_is_as_before():
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(KeyError), attend_together(growing_cache(support.tiny_llama(40).config)):
        raise KeyError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
