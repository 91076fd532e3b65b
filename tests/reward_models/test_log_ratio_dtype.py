from __future__ import annotations

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import prmbench
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.reward_models import log_ratio_dtype
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.log_ratio_dtype import HEADROOM, choose_dtype, float32_bytes


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device that is not there: its memory is asked for, and models land on the CPU."""
    free = {"bytes": 0}
    monkeypatch.setattr(log_ratio_dtype, "free_bytes", lambda options: free["bytes"])
    monkeypatch.setattr(LoadOptions, "resolve_device", lambda self: torch.device("cuda:0"))
    return free


def test_weights_in_float32(tiny):
    model = load_causal_lm(tiny, LoadOptions())
    assert float32_bytes(tiny) == 4 * sum(p.numel() for p in model.parameters())


def test_a_second_copy_in_another_layout_is_not_counted(tiny, tmp_path):
    """Some public checkpoints hold their weights as shards, and once more in one file of another layout."""
    model = load_causal_lm(tiny, LoadOptions())
    for name, shard in (("one", "1GB"), ("shards", "50KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=shard)
        shutil.copy(tiny / "model.safetensors", tmp_path / name / "consolidated.safetensors")
        assert float32_bytes(tmp_path / name) == float32_bytes(tiny)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1


def test_float32_where_both_models_fit(tiny, tiny_tuned, cuda):
    both = HEADROOM * (float32_bytes(tiny) + float32_bytes(tiny_tuned))
    cuda["bytes"] = round(both) + 1
    options, warnings = choose_dtype(LoadOptions(), [tiny_tuned, tiny])
    assert (options.dtype, warnings) == ("float32", [])
    cuda["bytes"] = round(both) - 1
    options, warnings = choose_dtype(LoadOptions(), [tiny_tuned, tiny])
    assert options.dtype == "bfloat16"
    assert "Half of the step scores of a log-ratio can be rounding" in warnings[0]
    assert LoadOptions().resolve_dtype() == torch.bfloat16  # what other kinds go on with


def test_an_engine_that_reserves_memory_needs_room_for_each(tiny, cuda):
    one = HEADROOM * float32_bytes(tiny)
    cuda["bytes"] = round(one / 0.42) + 1
    assert choose_dtype(LoadOptions(), [tiny, tiny], share=0.42)[0].dtype == "float32"
    cuda["bytes"] -= 9
    assert choose_dtype(LoadOptions(), [tiny, tiny], share=0.42)[0].dtype == "bfloat16"
    assert choose_dtype(LoadOptions(tensor_parallel=2), [tiny, tiny], share=0.42)[0].dtype == "float32"


def test_what_the_user_says_and_a_cpu_stay(tiny, cuda, monkeypatch):
    assert choose_dtype(LoadOptions(dtype="bfloat16"), [tiny]) == (LoadOptions(dtype="bfloat16"), [])
    monkeypatch.setattr(LoadOptions, "resolve_device", lambda self: torch.device("cpu"))
    assert choose_dtype(LoadOptions(), [tiny]) == (LoadOptions(), [])


@pytest.fixture
def on_cpu(cuda, monkeypatch):
    """Weights meant for the CUDA device land on the CPU, in the dtype that was chosen. Everything else is as on the device."""
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "none")
    return cuda


@pytest.mark.parametrize(("share", "dtype"), [(1.0, "float32"), (0.5, "bfloat16")])
def test_an_entry_is_computed_so_and_records_it(tiny, tiny_tuned, traces_file, on_cpu, tmp_path, capsys, share, dtype):
    on_cpu["bytes"] = round(share * HEADROOM * (float32_bytes(tiny) + float32_bytes(tiny_tuned))) + 1
    entry, _ = prmbench.evaluate(tiny_tuned, reference=tiny, data=traces_file, output=tmp_path / "out", n_resamples=0)
    assert entry.provenance.dtype == dtype
    said = "loaded in bfloat16: float32 takes about"
    assert [said in warning for warning in entry.provenance.warnings] == [True] * (dtype == "bfloat16")
    assert capsys.readouterr().err.count(said) == (dtype == "bfloat16")


def test_the_other_kinds_keep_bfloat16(tiny, traces_file, on_cpu, tmp_path):
    on_cpu["bytes"] = 2**40
    entry, _ = prmbench.evaluate(tiny, kind="endo", data=traces_file, output=tmp_path / "out", n_resamples=0)
    assert entry.provenance.dtype == "bfloat16"


def test_an_adapter_and_its_base_are_one_copy(tiny, on_cpu, tmp_path):
    lora = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=2, init_lora_weights=False))
    lora.save_pretrained(tmp_path / "adapter")
    on_cpu["bytes"] = round(HEADROOM * float32_bytes(tiny)) + 1
    model = load_reward_model(tmp_path / "adapter", reference=tiny, reference_cache=False)
    assert model.device_and_dtype()[1] == "float32"
    assert model.model is model.reference.engine()
