"""How checkpoints are laid out for vLLM. vLLM itself is not needed."""

from __future__ import annotations

import itertools
import json

import pytest
import support
import support_prm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, Qwen2Model

from prmbench.engines.load import LoadOptions
from prmbench.engines.vllm import trunk
from prmbench.engines.vllm.layout import apply_layers, is_process_reward, write_layout
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

CPU = LoadOptions(device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch):
    monkeypatch.setattr(trunk, "require_vllm", lambda: None)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def random_layers(*sizes):
    return [(torch.randn(b, a), torch.randn(b)) for a, b in itertools.pairwise(sizes)]


def laid_out(folder, target, layers):
    """Weights, config and which files are links."""
    target.mkdir()
    write_layout(folder, target, layers)
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: load_file(target / name) for name in set(index.values())}
    assert {name for weights in files.values() for name in weights} == set(index)
    assert all(name in files[file] for name, file in index.items())
    weights = {name: tensor for one in files.values() for name, tensor in one.items()}
    links = {file.name for file in target.glob("*.safetensors") if file.is_symlink()}
    return weights, json.loads((target / "config.json").read_text()), links


def test_a_head_that_vllm_knows_as_a_whole(tokenizer, tmp_path):
    folder = support_prm.save_mlp_classifier(tmp_path / "m", tokenizer)
    layers = random_layers(16, 16, 2)
    weights, config, links = laid_out(folder, tmp_path / "out", layers)
    assert config["architectures"] == ["Qwen2ForProcessRewardModel"]
    assert "auto_map" not in config  # no code of the checkpoint is asked for
    for i, (weight, bias) in enumerate(layers):
        assert torch.equal(weights[f"score.{2 * i}.weight"], weight)
        assert torch.equal(weights[f"score.{2 * i}.bias"], bias)
    before = load_file(folder / "model.safetensors")
    decoder = {name for name in before if not name.startswith("score")}
    assert decoder == {name for name in weights if not name.startswith("score")}
    assert all(torch.equal(weights[name], before[name]) for name in decoder)
    assert links == set()


@pytest.mark.parametrize(
    ("model_type", "layers", "known"),
    [
        ("qwen2", random_layers(16, 16, 2), True),
        ("llama", random_layers(16, 16, 2), False),
        ("qwen2", random_layers(16, 2), False),
        ("qwen2", random_layers(16, 8, 2), False),
        ("qwen2", random_layers(16, 16, 3), False),
        ("qwen2", [(weight, None) for weight, _ in random_layers(16, 16, 2)], False),
    ],
)
def test_which_heads_vllm_knows_as_a_whole(model_type, layers, known):
    assert is_process_reward(model_type, layers) is known


def test_only_files_with_a_head_are_copied(tokenizer, tmp_path):
    """A model in several files: vLLM reads those without a head where they lie."""
    folder = support_prm.save_value_head(tmp_path / "m", tokenizer)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {f"part-{i}.safetensors": names[i::3] for i in range(3)}
    for file, some in shards.items():
        save_file({name: whole[name] for name in some}, folder / file, metadata={"format": "pt"})
    index = {name: file for file, some in shards.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    layers = random_layers(16, 1)
    weights, config, links = laid_out(folder, tmp_path / "out", layers)
    with_head = {index["v_head.summary.weight"], index["v_head.summary.bias"]}
    assert len(links) == 3 - len(with_head)
    assert set(weights) == {"score.weight"} | {name for name in whole if not name.startswith("v_head")}
    assert torch.equal(weights["score.weight"], layers[0][0])  # the bias is added here
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert list(config["id2label"]) == ["0"]


def test_a_decoder_that_was_saved_alone_gets_its_names_in_a_language_model(tokenizer, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "alone")
    assert "embed_tokens.weight" in load_file(tmp_path / "alone" / "model.safetensors")
    weights, _, links = laid_out(tmp_path / "alone", tmp_path / "out", random_layers(16, 2))
    named = {name for name in load_file(folder / "model.safetensors") if name != "lm_head.weight"}
    assert set(weights) == named | {"score.weight"}
    assert links == set()


def test_without_a_head_nothing_is_copied_and_the_tokenizer_comes_along(tokenizer, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2")
    weights, _, links = laid_out(folder, tmp_path / "out", None)
    assert set(weights) == set(load_file(folder / "model.safetensors"))
    assert len(links) == 1
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_an_architecture_that_transformers_does_not_know(tokenizer, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2")
    support.change_json(folder / "config.json", model_type="my_model")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"no language model of the type 'my_model'.*use `engine=hf`"):
        write_layout(folder, tmp_path / "out", None)


def test_layers_are_applied_as_a_plain_loop_does():
    layers, states = random_layers(4, 3, 2), torch.randn(5, 4)
    (a, b), (c, d) = layers
    expected = [[float(c[k] @ torch.clamp(a @ x + b, min=0) + d[k]) for k in range(2)] for x in states]
    assert apply_layers(layers, states).tolist() == [pytest.approx(one, abs=1e-5) for one in expected]


# --- the rows of the output layer that a token pair compares ---


@pytest.mark.parametrize("tied", [False, True])
def test_output_rows_are_those_of_the_model(tokenizer, tmp_path, tied):
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2", tie_word_embeddings=tied)
    weight, bias = VLLMTrunk(folder, CPU, "m").output_rows([7, 5])
    assert torch.equal(weight, AutoModelForCausalLM.from_pretrained(folder).lm_head.weight[[7, 5]])
    assert bias is None


def test_output_rows_with_a_bias(tokenizer, tmp_path):
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(vocab_size=len(tokenizer), **support_prm.SHAPE)
    model = PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path / "m")
    weight, bias = VLLMTrunk(tmp_path / "m", CPU, "m").output_rows([7, 5])
    assert torch.equal(weight, model.lm_head.weight[[7, 5]])
    assert torch.equal(bias, model.lm_head.bias[[7, 5]])


def test_what_has_no_output_layer_is_no_token_pair(tokenizer, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2")
    Qwen2Model.from_pretrained(folder).save_pretrained(tmp_path / "alone")
    support.change_json(tmp_path / "alone" / "config.json", tie_word_embeddings=False)
    tokenizer.save_pretrained(tmp_path / "alone")
    with pytest.raises(UserError, match="holds no output layer of the name 'lm_head'.*use `engine=hf`"):
        load_reward_model(tmp_path / "alone", preset="rlhflow-mistral", engine="vllm")
    tied = support_prm.save_linear_classifier(tmp_path / "tied", tokenizer)
    support.change_json(tied / "config.json", tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"holds the head of a reward model.*`kind=classifier`"):
        load_reward_model(tied, preset="rlhflow-mistral", engine="vllm")


def test_a_config_that_transformers_cannot_read(tokenizer, tmp_path):
    folder = support_prm.save_linear_classifier(tmp_path / "m", tokenizer)
    support.change_json(folder / "config.json", model_type="my_model")
    with pytest.raises(UserError, match=r"m: its config cannot be read .*my_model"):
        VLLMTrunk(folder, CPU, "m")


def test_heads_are_checked_before_vllm_is_asked(tokenizer, tmp_path):
    plain = support_prm.save_causal(tmp_path / "m", tokenizer, "qwen2")
    with pytest.raises(UserError, match=r"holds no 'score\.weight'"):
        load_reward_model(plain, preset="trl-prm", engine="vllm")
    with pytest.raises(UserError, match=r"holds no 'value_head\.weight'"):
        load_reward_model(plain, kind="q_rm", engine="vllm")


def test_the_head_of_a_concentration_is_not_vllms(tokenizer, tmp_path):
    """A model that was trained on counts has two heads; scores come of the first."""
    folder = support_prm.save_linear_classifier(tmp_path / "m", tokenizer)
    whole = load_file(folder / "model.safetensors")
    second = {"concentration.0.weight": torch.ones(16), "concentration.1.weight": torch.ones(1, 16)}
    save_file({**whole, **second}, folder / "model.safetensors", metadata={"format": "pt"})
    weights, _, _ = laid_out(folder, tmp_path / "out", random_layers(16, 2))
    assert set(weights) == {name for name in whole if not name.startswith("score.")} | {"score.weight"}
