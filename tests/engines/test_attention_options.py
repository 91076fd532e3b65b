"""The options that say how a model computes: what is refused, what reaches the model, what is recorded."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import peft
import pytest
import support
import torch
from transformers import AutoModelForCausalLM

import prmbench
from prmbench.cli import app as cli
from prmbench.engines import registry
from prmbench.engines.attention import ATTENTION, is_masked, missing_for_attention
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import LoadOptions, decoder_of, load_causal_lm, load_trunk
from prmbench.engines.registry import check_engine
from prmbench.errors import ArgumentError, UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.reference_model import reference_identity

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
JOINED = LoadOptions("cpu", "float32", attn_implementation="eager", padding_free=True)


def test_names_are_those_of_transformers():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert set(ATTENTION) <= {"eager", *ALL_ATTENTION_FUNCTIONS}
    assert [name for name in ATTENTION if is_masked(name)] == ["eager", "sdpa", "flex_attention"]
    assert is_masked(None)
    assert not is_masked("kernels-community/flash-attn3")


@pytest.mark.parametrize(
    ("name", "device", "wanted"),
    [
        ("eager", CPU, None),
        ("sdpa", CPU, None),
        ("flex_attention", CUDA, None),
        ("flex_attention", CPU, "needs a CUDA device, not cpu; use sdpa"),
        ("flash_attention_2", CPU, "needs a CUDA device, not cpu; use sdpa"),
        ("owner/name", CPU, "needs a CUDA device, not cpu; use sdpa"),
        ("flash_attention_2", CUDA, "the package flash-attn, which is not installed (pip install flash-attn)"),
        ("flash_attention_3", CUDA, "the package flash-attn-3, which is not installed (pip install flash-attn-3)"),
        ("owner/name", CUDA, "the package kernels, which is not installed (pip install kernels)"),
    ],
)
def test_what_is_missing_is_said(name, device, wanted, monkeypatch):
    monkeypatch.setattr("prmbench.engines.attention.importlib.util.find_spec", lambda module: None)
    found = missing_for_attention(name, device)
    assert found is None if wanted is None else wanted in found


def test_a_package_that_is_there_is_not_missed(monkeypatch):
    def only(module):
        return lambda asked: asked == module or None

    monkeypatch.setattr("prmbench.engines.attention.importlib.util.find_spec", only("flash_attn"))
    assert missing_for_attention("flash_attention_2", CUDA) is None
    assert missing_for_attention("flash_attention_3", CUDA) is not None
    monkeypatch.setattr("prmbench.engines.attention.importlib.util.find_spec", only("kernels"))
    assert [missing_for_attention(name, CUDA) for name in (*ATTENTION, "owner/name")] == [None] * (len(ATTENTION) + 1)


def test_engines_without_a_choice_refuse_one():
    with pytest.raises(ArgumentError, match=r"^`attn_implementation=eager`: only `engine=hf` has a choice of this"):
        check_engine("vllm", LoadOptions(attn_implementation="eager"))
    with pytest.raises(ArgumentError, match=r"^`padding_free=True`: only `engine=hf` has a choice of this"):
        check_engine("api", LoadOptions(padding_free=True))
    with pytest.raises(
        ArgumentError, match=r"^`attn_implementation=spda`: expected eager, .* \(did you mean 'sdpa'\?\)$"
    ):
        check_engine("hf", LoadOptions(attn_implementation="spda"))


def test_flash_attention_is_refused_float32(monkeypatch):
    monkeypatch.setattr(registry, "attention_problem", lambda options: None)
    with pytest.raises(
        ArgumentError, match=r"flash_attention_2`: reads half precision alone; use `dtype=bfloat16`, or sdpa"
    ):
        check_engine("hf", LoadOptions("cpu", "float32", attn_implementation="flash_attention_2"))
    check_engine("hf", LoadOptions("cpu", "bfloat16", attn_implementation="flash_attention_2"))


def test_options_reach_models_decoders_and_merged_adapters(tiny, tmp_path):
    model = load_causal_lm(tiny, JOINED)
    assert model.config._attn_implementation == "eager"
    assert decoder_of(model).without_padding
    trunk = load_trunk(tiny, JOINED)
    assert (trunk.config._attn_implementation, trunk.without_padding) == ("eager", True)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config).save_pretrained(tmp_path)
    support.change_json(tmp_path / "adapter_config.json", base_model_name_or_path=str(tiny))
    assert decoder_of(load_causal_lm(tmp_path, JOINED)).without_padding
    assert load_trunk(tmp_path, JOINED).without_padding
    assert not hasattr(decoder_of(load_causal_lm(tiny, LoadOptions("cpu"))), "without_padding")


def test_a_training_refuses_what_is_missing_in_words_of_its_recipe(tiny):
    with pytest.raises(
        UserError, match=r"^attn_implementation flash_attention_2: needs a CUDA device, not cpu; use sdpa$"
    ):
        load_causal_lm(tiny, LoadOptions("cpu", attn_implementation="flash_attention_2"))


@pytest.mark.parametrize("options", [{"attn_implementation": "eager"}, {"padding_free": True}, {"liger": True}])
def test_reference_log_probs_are_kept_apart(options):
    plain = reference_identity("weights", "hf", LoadOptions("cpu", "float32"))
    other = reference_identity("weights", "hf", LoadOptions("cpu", "float32", **options))
    ids = [np.arange(5)]
    assert plain.key(ids, [1]) != other.key(ids, [1])


def test_an_entry_says_how_attention_was_computed_and_its_folder_holds_to_it(tiny, tiny_tuned, tmp_path):
    traces = support.write_traces(tmp_path / "made.jsonl", 6)
    plain, joined = (
        load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm", load_options=options)
        for options in (LoadOptions("cpu", "float32"), JOINED)
    )
    entries = []
    for model, name in ((plain, "plain"), (joined, "joined")):
        entry, path = prmbench.evaluate(model, data=traces, output=tmp_path / name, n_resamples=0)
        entries.append((entry, [json.loads(line) for line in (path.parent / "items.jsonl").read_text().splitlines()]))
    (before, items), (after, same) = entries
    recorded = {"attention": "eager", "padding_free": True}
    assert after.subject.facts == before.subject.facts | recorded
    assert not before.subject.facts.keys() & recorded.keys()
    for a, b in zip(items, same, strict=True):
        assert np.abs(np.subtract(a["sums"], b["sums"])).max() < 1e-4
    with pytest.raises(UserError, match=r"other settings \(subject.facts.attention"):
        prmbench.evaluate(joined, data=traces, output=tmp_path / "plain", n_resamples=0)


def test_an_engine_samples_with_another_attention(tiny):
    from prmbench.engines.sampling import Request, SamplingParams

    requests = [Request(np.array([1, 2, 3, 4, 5][:n]), "a", n) for n in (5, 3, 5)]
    params = SamplingParams(max_new_tokens=6, temperature=0)
    found = [
        [one.ids.tolist() for one in HFEngine(load_causal_lm(tiny, options)).generate(requests, frozenset(), params, 0)]
        for options in (LoadOptions("cpu", "float32"), JOINED)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ("--attn-implementation", "flash_attention_2"),
            "--attn-implementation flash_attention_2: needs a CUDA device",
        ),
        (("--attn-implementation", "flash"), "--attn-implementation flash: expected eager, sdpa,"),
        (
            ("--padding-free", "--engine", "vllm"),
            "--padding-free True: only --engine hf has a choice of this; leave it out",
        ),
    ],
)
def test_the_command_line_says_so_in_one_sentence(tiny, tiny_tuned, tmp_path, arguments, wanted):
    traces = support.write_traces(tmp_path / "made.jsonl", 2)
    out, err = io.StringIO(), io.StringIO()
    command = [
        "prmbench",
        "eval",
        "--rm",
        tiny_tuned,
        "--reference",
        tiny,
        "--data",
        traces,
        "--device",
        "cpu",
        *arguments,
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [str(one) for one in command])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert (end.value.code, out.getvalue()) == (2, "")
    (line,) = err.getvalue().strip().split("\n")
    assert wanted in line
