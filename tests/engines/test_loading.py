from __future__ import annotations

import json
import shutil

import pytest
import support
import torch
from safetensors.torch import load_file, save_file

from prmbench.engines.loading import LoadOptions, checkpoint_hash, load_causal_lm, load_tokenizer, local_folder, locate
from prmbench.errors import UserError


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_typo_names_the_neighbour(copy):
    with pytest.raises(UserError, match=r"--rm .*cpoy: no such folder \(did you mean 'copy'"):
        locate(str(copy.with_name("cpoy")), "--rm")


def test_a_hub_id_that_cannot_be_had_is_one_sentence():
    with pytest.raises(
        UserError, match=r"--rm someone/nothing: no such folder, and not to be had from the Hub"
    ) as raised:
        locate("someone/nothing", "--rm")
    assert "\n" not in str(raised.value)


def test_a_fetched_model_is_found_beside_a_folder_of_nearly_its_name(tiny, tmp_path, monkeypatch):
    """One model of an owner in the working folder does not hide the owner's others on the Hub."""
    shutil.copytree(tiny, tmp_path / "owner" / "model-a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"did you mean 'model-a'.*; if it is a Hub id, fetch it first: hf download owner/model-b"
    ):
        locate("owner/model-b", "--rm")
    kept = tmp_path / "hub" / "models--owner--model-b"
    shutil.copytree(tiny, kept / "snapshots" / "1234")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("1234")
    assert local_folder("owner/model-b", "--rm") is None


def test_a_file_is_not_a_checkpoint(copy):
    with pytest.raises(UserError, match="is a file; expected the folder"):
        locate(str(copy / "config.json"), "--rm")


def test_nan_weights_are_named(copy):
    def poison(weights):
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    change_weights(copy, poison)
    with pytest.raises(UserError, match="weight 'model.layers.1.mlp.up_proj.weight' holds NaN"):
        load_causal_lm(copy, LoadOptions())


def test_missing_weights_are_not_filled_with_random_numbers(copy):
    change_weights(copy, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"1 missing, 0 of another shape \(lm_head.weight\)"):
        load_causal_lm(copy, LoadOptions())


def test_weights_of_another_shape(copy):
    def cut(weights):
        weights["lm_head.weight"] = weights["lm_head.weight"][:-3].clone()

    change_weights(copy, cut)
    with pytest.raises(UserError, match="lm_head.weight"):
        load_causal_lm(copy, LoadOptions())


def test_missing_files(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no .safetensors weights; found pytorch_model.bin"):
        load_causal_lm(copy, LoadOptions())
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: no such file"):
        load_causal_lm(copy, LoadOptions())


def test_a_missing_shard_is_named(copy):
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"1 of 2 weight files are missing \(model-00002"):
        load_causal_lm(copy, LoadOptions())


def test_cut_weights_are_one_sentence(copy):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        load_causal_lm(copy, LoadOptions())


def test_no_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(copy, LoadOptions())


def test_hash_changes_with_one_weight(copy):
    before = checkpoint_hash(copy)
    change_weights(copy, lambda weights: weights["lm_head.weight"].add_(1e-3))
    assert checkpoint_hash(copy) != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(dtype="bfloat15"), r"--dtype bfloat15: expected .*did you mean 'bfloat16'"),
        (LoadOptions(device="gpu"), "--device gpu: not a device"),
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
