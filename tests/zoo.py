"""Models and tokenizers of today's kinds, tiny and random: whatever loads, scores, samples, trains or saves runs over them.

A model has random weights that are large enough for log-probs that differ. `logprobs` is the oracle: transformers' own forward,
one sequence at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import support
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# --- tokenizers ---

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level(*before: pre_tokenizers.PreTokenizer, use_regex: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, **_ALL))


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _sentencepiece(
    normalizer: normalizers.Normalizer | None, pre_tokenizer: pre_tokenizers.PreTokenizer | None, *, strip: bool
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
    return _trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=640, special_tokens=[*support.SPECIALS, *BYTES], show_progress=False),
    )


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _trained(tokenizer, trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", **_ALL))


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(support.CORPUS * 4, trainer)
    return tokenizer


_ALL: dict[str, Any] = {"special_tokens": support.SPECIALS, "show_progress": False}

TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: _byte_level(use_regex=True),
    "llama 3": lambda: _byte_level(_split(LLAMA3)),
    "qwen 2": lambda: _byte_level(_split(LLAMA3.replace("{1,3}", ""))),
    "smollm": lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "deepseek": lambda: _byte_level(
        _split(r"[\r\n]"), _split(r"\s?\p{L}+"), pre_tokenizers.Digits(individual_digits=True)
    ),
    "olmo 2": lambda: _byte_level(_split(LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?:[sdmt]|ll|ve|re)"))),
    "llama 2": lambda: _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, strip=True
    ),
    "mistral": lambda: _sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), strip=True),
    "gemma": lambda: _sentencepiece(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), strip=False
    ),
    "t5": _unigram,
}
"""Tokenizers as public ones are made, by the model whose way it is."""

CLASSES = (
    "LlamaTokenizerFast",
    "LlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "Qwen2Tokenizer",
    "GemmaTokenizerFast",
    "CohereTokenizerFast",
    "T5TokenizerFast",
    "BloomTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "NoSuchTokenizer",
    None,
)
"""Names that public checkpoints give as ``tokenizer_class``, whether or not it is theirs."""


def save_tokenizer(
    folder: Path, tokenizer: Tokenizer, tokenizer_class: str | None = "PreTrainedTokenizerFast", **config: object
) -> Path:
    """Write the files of a tokenizer, as a checkpoint has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"bos_token": "<s>", "eos_token": "<|end|>", "unk_token": "<unk>", "chat_template": support.TEMPLATE}
    named = {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps({**fields, **named, **config}))
    return folder


# --- architectures ---

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = VISION | {"image_size": 28, "patch_size": 14}
TOWER = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "depth": 1, "num_heads": 2}
TOKENS = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
LLAMA4 = {"intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 8, "no_rope_layers": [1, 0]}
PROJECTOR = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}


def _config(name: str, **fields: object) -> Callable[[int], Any]:
    return lambda vocabulary: getattr(transformers, name)(vocab_size=vocabulary, **{**BASE, **fields})


def _with_images(name: str, text: str, vision: Any, **fields: object) -> Callable[[int], Any]:
    """A model that takes images too, around a language model of this zoo."""
    return lambda vocabulary: getattr(transformers, name)(
        text_config=ARCHITECTURES[text](vocabulary).to_dict(), vision_config=vision, **fields
    )


ARCHITECTURES: dict[str, Callable[[int], Any]] = {
    "llama": _config("LlamaConfig"),
    "llama, tied, biases": _config("LlamaConfig", tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "qwen2": _config("Qwen2Config"),
    "qwen3": _config("Qwen3Config", tie_word_embeddings=True),
    "qwen3 moe": _config("Qwen3MoeConfig", **EXPERTS, decoder_sparse_step=1),
    "qwen3 next": _config("Qwen3NextConfig", **EXPERTS, **LINEAR),
    "mistral": _config("MistralConfig", sliding_window=8),
    "mixtral": _config("MixtralConfig", num_local_experts=4),
    "gemma2": _config("Gemma2Config", final_logit_softcapping=5.0, sliding_window=8),
    "gemma3 text": _config("Gemma3TextConfig", **SLIDING),
    "phi3": _config("Phi3Config"),
    "olmo2": _config("Olmo2Config"),
    "granite": _config("GraniteConfig", logits_scaling=4.0),
    "cohere2": _config("Cohere2Config", logit_scale=0.25, sliding_window=8),
    "smollm3": _config("SmolLM3Config"),
    "glm4": _config("Glm4Config"),
    "nemotron": _config("NemotronConfig"),
    "exaone4": _config("Exaone4Config", **SLIDING),
    "deepseek v3": _config("DeepseekV3Config", **LATENT),
    "gpt oss": _config("GptOssConfig", num_local_experts=4, **SLIDING),
    "falcon h1": _config("FalconH1Config", **MAMBA, lm_head_multiplier=0.5),
    "llama4 text": _config("Llama4TextConfig", **LLAMA4),
    "qwen2 text": _config("Qwen2Config", **MROPE),
    "llama4": _with_images("Llama4Config", "llama4 text", IMAGES | PROJECTOR, image_token_index=4),
    "gemma3": _with_images(
        "Gemma3Config",
        "gemma3 text",
        IMAGES | {"model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=4,
    ),
    "mistral3": _with_images("Mistral3Config", "mistral", IMAGES | {"model_type": "pixtral"}, image_token_index=4),
    "llava": _with_images("LlavaConfig", "llama", IMAGES | {"model_type": "clip_vision_model"}, image_token_index=4),
    "qwen2.5 vl": _with_images("Qwen2_5_VLConfig", "qwen2 text", TOWER | {"fullatt_block_indexes": [0]}, **TOKENS),
    "qwen3 vl": _with_images("Qwen3VLConfig", "qwen2 text", TOWER | {"deepstack_visual_indexes": [0]}, **TOKENS),
}
"""Configs by architecture, given the number of logits."""

WITH_IMAGES = ("llama4", "gemma3", "mistral3", "llava", "qwen2.5 vl", "qwen3 vl")


def build(architecture: str, vocabulary: int, seed: int = 0) -> Any:
    """A model with random weights, in eval mode."""
    torch.manual_seed(seed)
    config = ARCHITECTURES[architecture](vocabulary)
    auto = (
        transformers.AutoModelForImageTextToText if architecture in WITH_IMAGES else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def save(folder: Path, architecture: str, seed: int = 0, tokenizer: str = "gpt2", padded: int = 0) -> Path:
    """Write a checkpoint: a model of an architecture, with so many more logits than its tokenizer has tokens."""
    made = TOKENIZERS[tokenizer]()
    build(architecture, made.get_vocab_size() + padded, seed).save_pretrained(folder)
    return save_tokenizer(folder, made)


# --- the oracle ---


@torch.no_grad()
def logprobs(model: Any, ids: Sequence[int] | NDArray[np.int64], allowed: int | None = None) -> NDArray[np.float64]:
    """Log-probs of every next token by transformers' own forward. Shape [length, vocabulary].

    allowed: only so many ids, from 0 on, have a probability; None: all.
    """
    logits = model(input_ids=torch.tensor(np.asarray(ids))[None]).logits[0].double()[:, :allowed]
    found: NDArray[np.float64] = logits.log_softmax(-1).numpy()
    return found
