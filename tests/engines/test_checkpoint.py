from __future__ import annotations

import json
import shutil

import pytest
import support

from prmbench.engines.checkpoint import checkpoint_hash, local_folder, locate, weight_files
from prmbench.errors import UserError


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def test_a_typo_names_the_neighbour(copy):
    with pytest.raises(UserError, match=r"`rm=.*cpoy`: no such folder \(did you mean 'copy'"):
        locate(str(copy.with_name("cpoy")), "rm")


def test_a_hub_id_that_cannot_be_had_is_one_sentence():
    with pytest.raises(
        UserError, match=r"`rm=someone/nothing`: no such folder, and not to be had from the Hub"
    ) as raised:
        locate("someone/nothing", "rm")
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
        locate("owner/model-b", "rm")
    kept = tmp_path / "hub" / "models--owner--model-b"
    shutil.copytree(tiny, kept / "snapshots" / "1234")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("1234")
    assert local_folder("owner/model-b", "rm") is None


def test_a_file_is_not_a_checkpoint(copy):
    with pytest.raises(UserError, match="is a file; expected the folder"):
        locate(str(copy / "config.json"), "rm")


def test_hash_changes_with_one_weight(copy):
    before = checkpoint_hash(copy)
    support.change_weights(copy, lambda weights: weights["lm_head.weight"].add_(1e-3))
    assert checkpoint_hash(copy) != before


def test_a_missing_shard_is_named(copy):
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"1 of 2 weight files are missing \(model-00002"):
        weight_files(copy)
