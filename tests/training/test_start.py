"""What a training starts from: an adapter, and a tokenizer that transformers would make another one of."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import support
import torch
import zoo
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft

TEXT = " Tom has 1234 apples.\n\nSo  it's 7.<|end|>\n"


@pytest.fixture
def adapter(tmp_path):
    """An adapter on a model whose tokenizer names a class that is not its own."""
    base = zoo.save(tmp_path / "base", "llama", tokenizer="llama 3", padded=5)
    support.change_json(base / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def write_chats(path, n=8):
    records = []
    for i in range(n):
        for right in (True, False):
            answer = f"It is {2 * i + (0 if right else 5)}."
            messages = [{"role": "user", "content": f"What is {i} + {i}?"}, {"role": "assistant", "content": answer}]
            records.append({"messages": messages, "correct": right})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def settings(adapter, tmp_path):
    """One update that changes next to nothing: what is written is what was started from."""
    return {
        "model": str(adapter),
        "data": str(write_chats(tmp_path / "data.jsonl")),
        "output": str(tmp_path / "out"),
        "batch_size": 4,
        "micro_batch_size": 4,
        "max_steps": 1,
        "learning_rate": 1e-9,
    }


def check_written(adapter, output):
    start, written = (load_causal_lm(folder, LoadOptions("cpu", "float32")) for folder in (adapter, output))
    for (name, a), (_, b) in zip(start.named_parameters(), written.named_parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-6, name
    own = zoo.TOKENIZERS["llama 3"]().encode(TEXT, add_special_tokens=False).ids
    assert Tokenizer.from_file(str(output / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids == own
    assert AutoTokenizer.from_pretrained(output)(TEXT, add_special_tokens=False)["input_ids"] == own


@pytest.mark.slow
def test_a_reward_model_starts_from_an_adapter(adapter, tmp_path):
    result = train_rm(RMRecipe(objective="ipvrm", **settings(adapter, tmp_path)))
    check_written(adapter, result.output)
    model = load_reward_model(result.output)  # its reference is the adapter, by the card
    values = model.token_values([model.encode("What is 1 + 1?", ["It is 2."])])[0]
    assert np.abs(values).max() < 1e-3


@pytest.mark.slow
def test_sft_starts_from_an_adapter(adapter, tmp_path):
    check_written(adapter, train_sft(SFTRecipe(**settings(adapter, tmp_path))).output)


@pytest.mark.slow
@pytest.mark.parametrize("reference_logprobs", ["cached", "as-needed"])
def test_a_reference_that_is_padded_to_another_size(tiny, tmp_path, reference_logprobs):
    """Log-probs are taken over what both know, so that the same weights give log-ratios of 0."""
    padded = support.padded_copy(tiny, tmp_path / "padded")
    quick = {**settings(padded, tmp_path), "held_out": 2, "reference": str(tiny)}
    said = []
    result = train_rm(RMRecipe(objective="dpo", reference_logprobs=reference_logprobs, **quick), log=said.append)
    assert result.metrics["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert any("tokens that" in line for line in said)
    model = load_reward_model(result.output)
    assert np.abs(model.token_values([model.encode("What is 1 + 1?", ["It is 2."])])[0]).max() < 1e-3


def test_a_reference_of_another_vocabulary_is_refused(tiny, tmp_path):
    other = zoo.save(tmp_path / "other", "llama", tokenizer="qwen 2")
    with pytest.raises(UserError, match="differ in .* tokens of their vocabularies"):
        train_rm(RMRecipe(objective="dpo", reference=str(other), **settings(tiny, tmp_path)))
