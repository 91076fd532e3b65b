from __future__ import annotations

import json
import os
import shutil

import pytest
import support
import torch

from prmbench.engines.checkpoint import adapter_base, locate
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.errors import ArgumentError, UserError


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def test_nan_weights_are_named(copy):
    def poison(weights):
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    support.change_weights(copy, poison)
    with pytest.raises(UserError, match="weight 'model.layers.1.mlp.up_proj.weight' holds NaN"):
        load_causal_lm(copy, LoadOptions())


def test_missing_weights_are_not_filled_with_random_numbers(copy):
    support.change_weights(copy, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"1 missing, 0 of another shape \(lm_head.weight\)"):
        load_causal_lm(copy, LoadOptions())


def test_weights_of_another_shape(copy):
    def cut(weights):
        weights["lm_head.weight"] = weights["lm_head.weight"][:-3].clone()

    support.change_weights(copy, cut)
    with pytest.raises(UserError, match="lm_head.weight"):
        load_causal_lm(copy, LoadOptions())


def test_missing_files(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no .safetensors weights; found pytorch_model.bin"):
        load_causal_lm(copy, LoadOptions())
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        load_causal_lm(copy, LoadOptions())


def test_cut_weights_are_one_sentence(copy):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="model.safetensors: cannot be read .*; download it again"):
        load_causal_lm(copy, LoadOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(dtype="bfloat15"), r"`dtype=bfloat15`: expected .*did you mean 'bfloat16'"),
        (LoadOptions(device="gpu"), "`device=gpu`: not a device"),
    ],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(UserError, match=message):
        load_causal_lm(tiny, options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_cuda_says_so(tiny):
    with pytest.raises(UserError, match="finds no CUDA device"):
        load_causal_lm(tiny, LoadOptions(device="cuda"))


def test_remote_code_stays_off(tmp_path):
    folder = support.save_checkpoint(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal_lm(folder, LoadOptions())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "vulkan", "cuda:99", "cuda:-1", "privateuseone", ""])
def test_devices_that_do_not_exist(device):
    with pytest.raises(ArgumentError, match="`device=") as error:
        LoadOptions(device=device).resolve_device()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_among_the_files(tiny, tmp_path, kind):
    folder = shutil.copytree(tiny, tmp_path / "m")
    kind(folder / "special_tokens_map.json")
    with pytest.raises(UserError, match="special_tokens_map.json: is a pipe or a device"):
        locate(str(folder), "rm")
    support.change_json(shutil.copytree(tiny, tmp_path / "a") / "config.json", x=1)
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(UserError, match="special_tokens_map.json: is a pipe or a device"):
        adapter_base(tmp_path / "a")
