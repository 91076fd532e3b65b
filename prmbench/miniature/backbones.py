"""The miniature's tokenizer and backbones: ordinary Hugging Face folders, made from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.errors import ArgumentError, nearest
from prmbench.miniature.solutions import CONNECTIVES, SYSTEMS, TAGS, WORDS
from prmbench.miniature.world import LETTERS, OPERATORS, World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
_SPECIAL = ("<|pad|>", "<|unknown|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_WORDS = (
    "\n\n",
    *(one for one in SYSTEMS.values() if one),
    "start",
    "and",
    "\\boxed{",
    "}",
    *WORDS.values(),
    *CONNECTIVES,
)

BACKBONES = {
    "llama-small": ("llama", 2, 128),
    "llama-large": ("llama", 4, 128),
    "qwen3-small": ("qwen3", 2, 128),
    "qwen3-large": ("qwen3", 4, 128),
}
"""Architecture, layers and width by name: two families in two sizes, in the place of the paper's four backbones."""


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each word, number, tag and step separator. Spaces are no tokens.

    Args:
        world: The world, whose numbers are words.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = map(str, range(max(world.modulus, 10)))
    words = [*_SPECIAL, *_WORDS, *TAGS, *OPERATORS, *LETTERS, *numbers]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n\n"), "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(backbone: str, vocabulary: int, eos: int, seed: int) -> PreTrainedModel:
    """Make a randomly initialised model.

    Args:
        backbone: Name of the backbone, one of `BACKBONES`.
        vocabulary: Number of tokens.
        eos: Id of the token that ends a completion.
        seed: Seed of the weights.

    Raises:
        ArgumentError: There is no such backbone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    if backbone not in BACKBONES:
        raise ArgumentError(
            "backbone", backbone, f"not known{nearest(backbone, BACKBONES)}; expected one of {', '.join(BACKBONES)}"
        )
    family, layers, width = BACKBONES[backbone]
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": width // 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": eos,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))


def save_untrained(folder: Path, backbone: str, world: World, seed: int) -> Path:
    """Write a checkpoint folder of random weights and the world's tokenizer.

    Args:
        folder: The folder.
        backbone: Name of the backbone, one of `BACKBONES`.
        world: The world.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    tokenizer = build_tokenizer(world)
    build_model(backbone, len(tokenizer), tokenizer.eos_token_id, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
