from __future__ import annotations

import json
import shutil

import pytest
import support
from safetensors.torch import load_file, save_file

from prmbench.engines.checkpoint import checkpoint_hash, local_folder, locate, weight_files
from prmbench.engines.load import LoadOptions, load_causal_lm
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


# --- the hash covers what is loaded ---


def split(folder, into="model-00001-of-00001.safetensors", index="model.safetensors.index.json"):
    """Make the weights of a folder one shard with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / into).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / into)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, into)}))


def first_row(folder):
    return load_causal_lm(folder, LoadOptions("cpu", "float32")).lm_head.weight[0].tolist()


def change(file):
    weights = load_file(file)
    weights["lm_head.weight"][0] += 1
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("place", ["model-00001-of-00001.safetensors", "weights/part.safetensors"])
def test_shards_wherever_they_are_in_the_folder(copy, place):
    split(copy, place)
    before, row = checkpoint_hash(copy), first_row(copy)
    change(copy / place)
    assert first_row(copy) != row
    assert checkpoint_hash(copy) != before


@pytest.mark.parametrize("named", ["other.safetensors", "weights/other.safetensors", "other.safetensors.index.json"])
def test_weights_that_the_config_names(copy, named):
    (copy / "weights").mkdir()
    if named.endswith(".json"):
        split(copy, "weights/part.safetensors", named)
    else:
        shutil.copyfile(copy / "model.safetensors", copy / named)
    loaded = copy / ("weights/part.safetensors" if named.endswith(".json") else named)
    support.change_json(copy / "config.json", transformers_weights=named)
    before, row = checkpoint_hash(copy), first_row(copy)
    change(loaded)
    assert first_row(copy) != row
    assert checkpoint_hash(copy) != before


def test_weights_in_the_cache_of_the_hub(copy, tmp_path):
    """Its files are links to blobs beside the snapshot."""
    (tmp_path / "blobs").mkdir()
    (copy / "model.safetensors").rename(tmp_path / "blobs" / "1234")
    (copy / "model.safetensors").symlink_to(tmp_path / "blobs" / "1234")
    before, row = checkpoint_hash(copy), first_row(copy)
    change(tmp_path / "blobs" / "1234")
    assert first_row(copy) != row
    assert checkpoint_hash(copy) != before


def outside(folder):
    shutil.copyfile(folder / "model.safetensors", folder.parent / "outside.safetensors")
    split(folder, "../outside.safetensors")


def absolute(folder):
    outside(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("../", f"{folder.parent}/"))


def pickled(folder):
    split(folder, "pytorch_model.bin")


def stale(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "old")
    split(folder)
    (folder / "old").rename(folder / "model.safetensors")


def named(value):
    return lambda folder: support.change_json(folder / "config.json", transformers_weights=value)


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (outside, r"names '../outside.safetensors', which is no .safetensors file of the folder"),
        (absolute, r"outside.safetensors', which is no .safetensors file of the folder"),
        (pickled, r"names 'pytorch_model.bin', which is no .safetensors file of the folder"),
        (stale, r"holds both model.safetensors and .*so it is not clear which weights are meant"),
        (
            named("../other.safetensors"),
            r"transformers_weights is \"../other.safetensors\"; expected a .safetensors file",
        ),
        (named("pytorch_model.bin"), r"transformers_weights is \"pytorch_model.bin\"; expected"),
        (named(["x"]), r"transformers_weights is \[\"x\"\]; expected"),
        (named("gone.safetensors"), r"transformers_weights names 'gone.safetensors', which is not in the folder"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": [1]}'), r"holds no weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'), r"holds no weight_map"),
    ],
)
def test_weights_that_are_not_within_the_folder_or_not_clear(copy, arrange, message):
    arrange(copy)
    for use in (checkpoint_hash, first_row):
        with pytest.raises(UserError, match=message):
            use(copy)


def test_an_adapter_that_is_no_safetensors(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="a PEFT adapter without adapter_model.safetensors"):
        checkpoint_hash(tmp_path)
