"""Sequences in one row, against the same sequences alone."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import support
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3Config,
)

from prmbench.engines.hf import states
from prmbench.engines.hf.engine import HFEngine, states_at
from prmbench.engines.hf.states import attention_facts, half_for_flash, run_without_padding
from prmbench.engines.load import decoder_of
from prmbench.errors import UserError

LENGTHS = (40, 7, 23, 2, 31)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS = {
    "qwen3": Qwen3Config(**SMALL),
    "sliding windows": MistralConfig(**SMALL, sliding_window=5),
    "sliding windows and full attention": Gemma2Config(**SMALL, sliding_window=5),
}
NAMES = ("llama", *CONFIGS)


def make(name, attention="sdpa"):
    if name == "llama":
        model = support.tiny_llama(97, seed=3)
        model.set_attn_implementation(attention)
        return model
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 97, size=n) for n in LENGTHS]


def alone(model, ids):
    """Log-probs of the tokens of one sequence by itself, from full logits in float64."""
    with torch.no_grad():
        logits = model.double()(torch.tensor(ids)[None]).logits[0]
    model.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", NAMES)
def test_sequences_in_one_row_are_scored_as_if_alone(name, attention, sequences):
    model = make(name, attention)
    run_without_padding(decoder_of(model), name)
    engine = HFEngine(model)
    found = engine.score(sequences, [1] * len(sequences), frozenset({"logprob"}))
    for ids, scores in zip(sequences, found, strict=True):
        assert np.abs(scores.logprob - alone(model, ids)).max() < 1e-5
    assert engine.facts().get("padding_free") is True
    assert engine.facts().get("attention") == (None if attention == "sdpa" else "eager")


@pytest.fixture
def boundaries():
    """Names an attention that is told where sequences begin, as flash attention is: a plain loop over them."""
    told = []

    def attend(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **others):
        assert attention_mask is None
        edges = [0, query.shape[2]]
        if cu_seq_lens_q is not None:
            told.append(others["max_length_q"])
            assert (cu_seq_lens_q == others["cu_seq_lens_k"]).all()
            assert cu_seq_lens_q.dtype == torch.int32
            edges = cu_seq_lens_q.tolist()
        key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
        out = torch.zeros_like(query)
        for start, end in itertools.pairwise(edges):
            part = slice(start, end)
            scores = query[:, :, part] @ key[:, :, part].transpose(2, 3) * scaling
            later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            out[:, :, part] = scores.masked_fill(later, -torch.inf).softmax(-1) @ value[:, :, part]
        return out.transpose(1, 2), None

    AttentionInterface.register("boundaries", attend)
    yield told
    del AttentionInterface._global_mapping["boundaries"]


def test_an_attention_without_masks_is_told_where_sequences_begin(boundaries, sequences):
    model = support.tiny_llama(97, seed=3)
    wanted = [alone(model, ids) for ids in sequences]
    model.set_attn_implementation("boundaries")
    run_without_padding(decoder_of(model), "m")
    del boundaries[:]
    # Flash attention would have half precision here; what it is told is the same.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "half_for_flash", lambda model: torch.no_grad())
        found = HFEngine(model).score(sequences, [1] * len(sequences), frozenset({"logprob"}))
    assert boundaries == [39, 39]  # in each of two layers: the last token of a sequence is scored, not run
    for one, logprobs in zip(found, wanted, strict=True):
        assert np.abs(one.logprob - logprobs).max() < 1e-5


def test_nothing_but_what_is_asked_for_is_run(sequences):
    trunk = decoder_of(support.tiny_llama(97))
    run_without_padding(trunk, "m")
    seen = []
    trunk.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    asked = [np.array([3, 30]), np.array([], dtype=np.int64), np.array([22]), np.array([0, 1]), np.array([5, 0, 5])]
    with torch.inference_mode():
        found = states_at(trunk, torch.device("cpu"), sequences, asked)
        assert seen == [(1, 31 + 1 + 23 + 2 + 6)]  # at least one token of a sequence of which nothing is asked
        trunk.without_padding = False
        wanted = [
            trunk(input_ids=torch.tensor(ids)[None]).last_hidden_state[0, at]
            for ids, at in zip(sequences, asked, strict=True)
        ]
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=0)


def test_half_precision_is_close(sequences):
    model = support.tiny_llama(97, seed=3)
    wanted = [alone(model, ids) for ids in sequences]
    model.bfloat16()
    run_without_padding(decoder_of(model), "m")
    found = HFEngine(model).score(sequences, [1] * len(sequences), frozenset({"logprob"}))
    off = np.concatenate([one.logprob - logprobs for one, logprobs in zip(found, wanted, strict=True)])
    assert off.std() < 0.1


@pytest.mark.parametrize("kind", ["opt", "mamba", "lfm2", "llama4_text"])
def test_an_architecture_that_mixes_what_shares_a_row_is_refused(kind):
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = {
        "opt": lambda: OPTConfig(**sizes, num_attention_heads=4, word_embed_proj_dim=32, ffn_dim=64),
        "mamba": lambda: MambaConfig(**sizes),
        "lfm2": lambda: Lfm2Config(**SMALL, layer_types=["conv", "full_attention", "conv"]),
        "llama4_text": lambda: Llama4TextConfig(**SMALL, num_local_experts=2, intermediate_size_mlp=64),
    }[kind]()
    trunk = decoder_of(AutoModelForCausalLM.from_config(config))
    with pytest.raises(
        UserError, match=rf"^M: padding_free: a {kind} model does not keep sequences apart .*; leave it out$"
    ):
        run_without_padding(trunk, "M")
    assert not trunk.without_padding


def test_a_decoder_whose_mask_forgets_where_sequences_begin_is_refused(monkeypatch):
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(UserError, match="does not keep sequences apart"):
        run_without_padding(decoder_of(support.tiny_llama(97)), "m")


def test_weights_in_float32_meet_flash_attention_in_half_precision():
    model = support.tiny_llama(97)
    with half_for_flash(model):
        assert not torch.is_autocast_enabled("cpu")
    model.config._attn_implementation_internal = "flash_attention_2"
    with half_for_flash(model):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with half_for_flash(model.bfloat16()):
        assert not torch.is_autocast_enabled("cpu")


def test_what_is_as_ever_is_not_recorded():
    assert attention_facts(decoder_of(support.tiny_llama(97))) == {}
