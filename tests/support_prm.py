"""Tiny random PRMs of every architecture, laid out as their authors' checkpoints are."""

from __future__ import annotations

import json
from pathlib import Path

import support
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, processors, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
WIDE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
"""Heads of width 32: vLLM's kernels for CPUs know no narrower ones."""
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def _strong(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that scores differ from step to step."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def smol_tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer with Qwen's step mark as a special token."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>"]})
    return tokenizer


def mistral_tokenizer() -> PreTrainedTokenizerBase:
    """Llama-2 style, with Math-Shepherd's marks as tokens of their own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = [*support.SPECIALS, *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    words = ["ки"] * 60 + ["+"] * 60 + ["-"] * 60  # every text alone, so that no merge runs across them
    tokenizer.train_from_iterator([*support.CORPUS[:2] * 4, *words], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return support.wrap(tokenizer, None)


def _save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _rewrite(folder: Path, weights: dict[str, torch.Tensor], **config: object) -> None:
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def save_linear_classifier(folder: Path, tokenizer: PreTrainedTokenizerBase, arch: str = "qwen2", **shape: int) -> Path:
    """As transformers' token classification (TRL's PRM trainer, PURE) saves it."""
    torch.manual_seed(3)
    kinds = {"qwen2": Qwen2ForTokenClassification, "llama": LlamaForTokenClassification}
    config = CONFIGS[arch](vocab_size=len(tokenizer), num_labels=2, **{**SHAPE, **shape})
    return _save(_strong(kinds[arch](config)), tokenizer, folder)


def save_mlp_classifier(folder: Path, tokenizer: PreTrainedTokenizerBase, *, tied: bool = False, **shape: int) -> Path:
    """As Qwen2.5-Math-PRM is laid out: two layers, custom code named in the config."""
    torch.manual_seed(4)
    config = Qwen2Config(vocab_size=len(tokenizer), **{**SHAPE, "tie_word_embeddings": tied, **shape})
    _save(_strong(Qwen2ForCausalLM(config)), tokenizer, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight", None)
    width = config.hidden_size
    scale = (16 / width) ** 0.5  # scores of one size, however wide
    weights |= {"score.0.weight": torch.randn(width, width) * scale, "score.0.bias": torch.randn(width)}
    weights |= {"score.2.weight": torch.randn(2, width) * scale, "score.2.bias": torch.randn(2)}
    code = {
        "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
    }
    _rewrite(folder, weights, architectures=["Qwen2ForProcessRewardModel"], auto_map=code)
    return folder


def save_value_head(folder: Path, tokenizer: PreTrainedTokenizerBase, **shape: int) -> Path:
    """As Skywork-o1-Open-PRM is laid out: a causal language model and v_head.summary beside it."""
    torch.manual_seed(5)
    config = Qwen2Config(vocab_size=len(tokenizer), **{**SHAPE, **shape})
    _save(_strong(Qwen2ForCausalLM(config)), tokenizer, folder)
    weights = load_file(folder / "model.safetensors")
    weights |= {"v_head.summary.weight": torch.randn(1, config.hidden_size), "v_head.summary.bias": torch.randn(1)}
    _rewrite(folder, weights, architectures=["Qwen2ForPrmModel"])
    return folder


def save_causal(folder: Path, tokenizer: PreTrainedTokenizerBase, arch: str = "mistral", **config: object) -> Path:
    """A plain language model (token pairs, critics, judges)."""
    torch.manual_seed(6)
    kinds = {"mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM}
    made = CONFIGS[arch](vocab_size=len(tokenizer), **{**SHAPE, **config})
    return _save(_strong(kinds[arch](made)), tokenizer, folder)
