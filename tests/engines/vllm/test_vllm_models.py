"""Models that vLLM loads one after the other. Each is closed before the next, so they stand apart from engines that live on."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from prmbench.engines.load import LoadOptions
from prmbench.engines.registry import load_engine
from prmbench.engines.sampling import Request, SamplingParams

pytestmark = pytest.mark.slow


def test_ids_past_the_tokenizer_are_never_sampled(one_process, tiny, tmp_path):
    folder = support.save_checkpoint(tmp_path / "m", hidden_size=128, intermediate_size=128)
    support.change_weights(folder, lambda weights: weights["lm_head.weight"][300:].mul_(4))
    options = LoadOptions(device="cpu", dtype="float32")
    requests = [Request(p, f"k{i}", 0) for i, p in enumerate(support.token_prompts(tiny))]
    for params in (SamplingParams(max_new_tokens=12), SamplingParams(temperature=0, max_new_tokens=12)):
        engine = load_engine("vllm", folder, options, "m", memory_share=0.3, allowed=np.arange(300))
        found = engine.generate(requests, frozenset(), params, 0)
        engine.close()
        assert max(int(one.ids.max()) for one in found) < 300
    free = load_engine("hf", folder, options, "m").generate(requests, frozenset(), params, 0)
    assert max(int(one.ids.max()) for one in free) >= 300


def test_an_adapter_is_merged_for_it(one_process, tiny, tmp_path):
    torch.manual_seed(5)
    settings = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), settings).save_pretrained(tmp_path / "adapter")
    options = LoadOptions(device="cpu", dtype="float32")
    sequences = support.token_prompts(tiny, 3)
    found = {}
    for name in ("hf", "vllm"):
        engine = load_engine(name, tmp_path / "adapter", options, "adapter")
        found[name] = engine.score(sequences, [1, 1, 1], frozenset({"logprob"}))
    engine.close()
    base = load_engine("hf", tiny, options, "tiny").score(sequences, [1, 1, 1], frozenset({"logprob"}))
    for a, b, c in zip(found["hf"], found["vllm"], base, strict=True):
        assert b.logprob == pytest.approx(a.logprob, abs=support.LOGPROB_TOLERANCE)
        assert np.abs(a.logprob - c.logprob).max() > 0.1
