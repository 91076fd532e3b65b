"""What the goldens of presets are computed on: tiny checkpoints with real tokenizers, and made traces.

A golden is what the authors' own code printed for these (`scripts/make_preset_goldens.py`). The test builds the same files again,
so everything here is exact: weights come from the raw bits of PCG64, which NumPy promises never to change, and tokenizers from the
vocabularies that packages ship. Nothing is read from transformers, because the authors' code runs beside an older one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2

# --- tokenizers -------------------------------------------------------------------------------------------------------------------

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_WORDS = QWEN_WORDS.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
NEVER = 1 << 30
MATH_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
CHAT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


def shipped(package: str, file: str) -> Path:
    """A file that an installed package ships. The package is not imported.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package.replace('_', '-')} is not installed")
    return Path(spec.submodule_search_locations[0]) / file


def read_ranks(path: Path) -> dict[bytes, int]:
    """A vocabulary of tiktoken: tokens as bytes, and their ranks, which are their ids."""
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


@functools.cache
def byte_level(file: Path, words: str, *, whole: bool, llama: bool = False, nfc: bool = False) -> str:
    """The file of a byte-level BPE tokenizer with the merges that a vocabulary of tiktoken means.

    A merge is any pair that makes a token, by its rank. Those of Qwen are one a token, the last one that makes it; of Llama, words
    are looked up whole first. Where it need not be whole, it has the merges that our texts come across alone, to load fast.
    """
    ranks, shown = read_ranks(file), _byte_names()
    name = {token: "".join(shown[b] for b in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in ranks if whole else _needed(ranks, words, nfc):
        if llama:
            pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
            pairs = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
            pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        else:
            parts = [bytes([b]) for b in token]
            while len(parts) > 2:
                i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], NEVER))
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            pairs = [(parts[0], parts[1])] if len(parts) == 2 else []
        merges += [(name[left], name[right]) for left, right in pairs]
    model = models.BPE({name[t]: rank for t, rank in ranks.items()}, merges, ignore_merges=llama)
    tokenizer = Tokenizer(model)
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def _needed(ranks: dict[bytes, int], words: str, nfc: bool) -> list[bytes]:
    """The tokens of a vocabulary that BPE comes across in `all_texts`, by rank."""
    kept: set[bytes] = set()
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    texts = [normalizers.NFC().normalize_str(text) if nfc else text for text in all_texts()]
    waiting = {word.encode() for text in texts for word, _ in split.pre_tokenize_str(text)}
    seen: set[bytes] = set()
    while waiting:  # words, and then the tokens that they come to, each of which is merged in its own way too
        word = waiting.pop()
        seen.add(word)
        made = {word} & ranks.keys()
        parts = [bytes([b]) for b in word]
        while len(parts) > 1:
            i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], NEVER))
            if parts[i] + parts[i + 1] not in ranks:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            made.add(parts[i])
        kept |= made
        waiting |= made - seen
    return sorted(kept, key=ranks.__getitem__)


def _byte_names() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it prints, else one past 255."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b) if b in printed else chr(next(others)) for b in range(256)]


def qwen_tokenizer(whole: bool, *, mark: bool = False) -> Tokenizer:
    """The tokenizer of Qwen 2.5; of its PRMs, with the mark in the place of ``<|quad_end|>``."""
    file = shipped("qwen_tokenizer", "resources/qwen.tiktoken")
    tokenizer = Tokenizer.from_str(byte_level(file, QWEN_WORDS, whole=whole, nfc=True))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
    special += ["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<extra_0>" if mark else "<|quad_end|>"]
    special += ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    others = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
    others += ["<|repo_name|>", "<|file_sep|>"]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in others])
    return tokenizer


def llama_tokenizer(whole: bool) -> Tokenizer:
    """The tokenizer of Llama 3.1: a beginning of sequence before every text."""
    file = shipped("llama_models", "llama3/tokenizer.model")
    tokenizer = Tokenizer.from_str(byte_level(file, LLAMA_WORDS, whole=whole, llama=True))
    named = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id"}
    named |= {8: "eom_id", 9: "eot_id", 10: "python_tag"}
    tokenizer.add_special_tokens([f"<|{named.get(i, f'reserved_special_token_{i}')}|>" for i in range(256)])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos]),
        ]
    )
    return tokenizer


def mistral_tokenizer(whole: bool) -> Tokenizer:
    """The tokenizer of Mistral 7B v0.1, of its SentencePiece model; it is whole always, because it is small."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(shipped("mistral_common", "data/tokenizer.model.v1")))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    score = {piece: pieces.get_score(i) for piece, i in vocabulary.items()}
    merges = []
    for piece, number in vocabulary.items():
        if pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number):
            continue
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(score[piece], number, pair) for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    merges.sort(key=lambda one: (-one[0], one[1], vocabulary[one[2][0]], vocabulary[one[2][1]]))
    model = models.BPE(vocabulary, [pair for *_, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _chat_qwen(system: str) -> str:
    """A chat template that writes what that of Qwen 2.5 writes for messages of text."""
    default = system.replace("\\", "\\\\")
    return (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + default + "<|im_end|>\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


CHAT_LLAMA = (
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n"
    "Today Date: 26 Jul 2024\\n\\n<|eot_id|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + (message['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# --- checkpoints ------------------------------------------------------------------------------------------------------------------


def uniform(seed: int, shape: tuple[int, ...], reach: float) -> np.ndarray:
    """Float32 numbers between -reach and reach, of 24 raw bits each, so that every machine makes the very same ones."""
    bits = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(40)
    numbers = bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (numbers * np.float32(reach)).reshape(shape)


def _decoder(vocabulary: int, seed: int, *, bias: bool) -> dict[str, np.ndarray]:
    """The weights of a decoder of the Llama family by their names in transformers."""
    seeds = iter(range(seed * 1000, seed * 1000 + 1000))
    head = WIDTH // HEADS

    def linear(outer: int, inner: int) -> np.ndarray:
        return uniform(next(seeds), (outer, inner), 2.5 / math.sqrt(inner))

    found = {"model.embed_tokens.weight": uniform(next(seeds), (vocabulary, WIDTH), 1.0)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for part, outer in (("q", HEADS * head), ("k", KV_HEADS * head), ("v", KV_HEADS * head)):
            found[f"{name}.self_attn.{part}_proj.weight"] = linear(outer, WIDTH)
            if bias:
                found[f"{name}.self_attn.{part}_proj.bias"] = uniform(next(seeds), (outer,), 0.5)
        found[f"{name}.self_attn.o_proj.weight"] = linear(WIDTH, HEADS * head)
        found[f"{name}.mlp.gate_proj.weight"] = linear(INNER, WIDTH)
        found[f"{name}.mlp.up_proj.weight"] = linear(INNER, WIDTH)
        found[f"{name}.mlp.down_proj.weight"] = linear(WIDTH, INNER)
        for part in ("input", "post_attention"):
            found[f"{name}.{part}_layernorm.weight"] = np.ones(WIDTH, dtype=np.float32)
    found["model.norm.weight"] = np.ones(WIDTH, dtype=np.float32)
    return found


def _output(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    return {"lm_head.weight": uniform(seed * 1000 + 900, (vocabulary, WIDTH), 0.5)}


def _linear_head(seed: int) -> dict[str, np.ndarray]:
    return {
        "score.weight": uniform(seed * 1000 + 901, (2, WIDTH), 0.5),
        "score.bias": uniform(seed * 1000 + 902, (2,), 0.5),
    }


def _two_layer_head(seed: int) -> dict[str, np.ndarray]:
    return {
        "score.0.weight": uniform(seed * 1000 + 903, (WIDTH, WIDTH), 0.4),
        "score.0.bias": uniform(seed * 1000 + 904, (WIDTH,), 0.5),
        "score.2.weight": uniform(seed * 1000 + 905, (2, WIDTH), 0.5),
        "score.2.bias": uniform(seed * 1000 + 906, (2,), 0.5),
    }


def _value_head(seed: int) -> dict[str, np.ndarray]:
    return {
        "v_head.summary.weight": uniform(seed * 1000 + 907, (1, WIDTH), 0.5),
        "v_head.summary.bias": uniform(seed * 1000 + 908, (1,), 0.5),
    }


_QWEN = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "attention_bias": False,
}
_LLAMA |= {"rope_scaling": {**_LLAMA3, "rope_type": "llama3"}, "bos_token_id": 128000, "eos_token_id": 128009}
_LLAMA |= {"max_position_embeddings": 131_072}
_MISTRAL = {"model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
_MISTRAL |= {"sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Recipe:
    """How a tiny checkpoint is made.

    Attributes:
        architecture: Class of transformers, or of the authors' code, that its config names.
        config: Fields of the config besides its sizes.
        vocabulary: Number of rows of the embedding.
        heads: What makes the weights besides the decoder, given the seed; the output layer is made for the vocabulary.
        tokenizer: What makes its tokenizer, whole or with what our texts need.
        special: Special tokens that the tokenizer's config names.
        chat: Chat template; None: none.
        seed: Seed of the weights.
    """

    architecture: str
    config: dict[str, Any]
    vocabulary: int
    heads: tuple[Callable[[int], dict[str, np.ndarray]], ...]
    tokenizer: Callable[[bool], Tokenizer]
    special: dict[str, str]
    chat: str | None
    seed: int


def _marked(whole: bool) -> Tokenizer:
    return qwen_tokenizer(whole, mark=True)


def _qwen_output(seed: int) -> dict[str, np.ndarray]:
    return _output(151_936, seed)


_MATH = _chat_qwen(MATH_SYSTEM)
_QWEN_ENDS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_QWEN_BASE = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_BOS = {**_QWEN_BASE, "bos_token": "<|im_start|>"}
_LLAMA_ENDS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
_MISTRAL_ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_PRM = "Qwen2ForProcessRewardModel"
_TOKENS = "Qwen2ForTokenClassification"
_CAUSAL = "Qwen2ForCausalLM"

RECIPES = {
    "qwen-prm": Recipe(_PRM, _QWEN, 151_936, (_two_layer_head,), _marked, _QWEN_ENDS, _MATH, 1),
    "qwen-prm-chat": Recipe(_PRM, _QWEN, 151_936, (_two_layer_head,), _marked, _QWEN_ENDS, _chat_qwen(CHAT_SYSTEM), 2),
    "skywork": Recipe("Qwen2ForPrmModel", _QWEN, 151_936, (_qwen_output, _value_head), qwen_tokenizer, _BOS, None, 3),
    "qwen-tokens": Recipe(_TOKENS, _QWEN, 151_936, (_linear_head,), qwen_tokenizer, _QWEN_BASE, None, 4),
    "llama-tokens": Recipe(
        "LlamaForTokenClassification", _LLAMA, 128_256, (_linear_head,), llama_tokenizer, _LLAMA_ENDS, None, 5
    ),
    "eurus": Recipe(_CAUSAL, _QWEN, 151_936, (_qwen_output,), qwen_tokenizer, _QWEN_ENDS, _MATH, 6),
    "eurus-reference": Recipe(_CAUSAL, _QWEN, 151_936, (_qwen_output,), qwen_tokenizer, _QWEN_ENDS, _MATH, 7),
    "rlhflow": Recipe(
        "LlamaForCausalLM",
        _LLAMA,
        128_256,
        (lambda seed: _output(128_256, seed),),
        llama_tokenizer,
        _LLAMA_ENDS,
        CHAT_LLAMA,
        8,
    ),
    "shepherd": Recipe(
        "MistralForCausalLM",
        _MISTRAL,
        32_000,
        (lambda seed: _output(32_000, seed),),
        mistral_tokenizer,
        _MISTRAL_ENDS,
        None,
        9,
    ),
}


def make_tokenizer(name: str, folder: Path, *, whole: bool) -> None:
    """Write the tokenizer of a recipe: its file and the config that names its special tokens."""
    recipe = RECIPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    recipe.tokenizer(whole).save(str(folder / "tokenizer.json"))
    of_type = {"qwen2": "Qwen2Tokenizer", "llama": "PreTrainedTokenizerFast", "mistral": "LlamaTokenizer"}
    config = {"tokenizer_class": of_type[recipe.config["model_type"]], "model_max_length": 4096, **recipe.special}
    config |= {"clean_up_tokenization_spaces": False} | ({"chat_template": recipe.chat} if recipe.chat else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def make_checkpoint(name: str, folder: Path, *, whole: bool = False) -> None:
    """Write the checkpoint of a recipe, as transformers of the last years read it."""
    recipe = RECIPES[name]
    make_tokenizer(name, folder, whole=whole)
    config = {
        "architectures": [recipe.architecture],
        "vocab_size": recipe.vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **recipe.config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = _decoder(recipe.vocabulary, recipe.seed, bias=config["model_type"] == "qwen2")
    for head in recipe.heads:
        weights |= head(recipe.seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def fingerprints(folder: Path) -> dict[str, str]:
    """The sha256 of the weights, and of what the tokenizer makes of the traces: what must be equal for numbers to be comparable."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in all_texts()]
    return {
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "tokens": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
    }


# --- traces -----------------------------------------------------------------------------------------------------------------------


def _count(n: int) -> list[str]:
    return [
        f"After day {k} there are {k * (k + 1) // 2} apples in the basket, since {k} were added."
        for k in range(1, n + 1)
    ]


TRACES: dict[str, dict[str, Any]] = {
    "plain": {
        "problem": "A box holds 3 red and 4 blue pens. How many pens are in 5 boxes?",
        "steps": ["One box holds 3 + 4 = 7 pens.", "Five boxes hold 5 * 7 = 35 pens.", "The answer is \\boxed{35}."],
    },
    "one step": {"problem": "What is 6 times 7?", "steps": ["6 times 7 is 42, so \\boxed{42}"]},
    "marks in the text": {
        "problem": "Write @ as a sum of @.",
        "steps": ["We keep @ as it is.", "@", "Then 2 + 2 = 4 @", "@ so - and + follow."],
    },
    "lines": {
        "problem": "Solve for x:\n2x + 1 = 7",
        "steps": ["Subtract 1:\n2x = 6.\nThen divide.", "x = 3.\n", "\nCheck: 2 * 3 + 1 = 7.", "Done:\n\\boxed{3}\n"],
    },
    "blank lines": {
        "problem": "First part.\n\nSecond part: what is 8 - 5?",
        "steps": ["Begin.\n\nThe difference is wanted.", "8 - 5 = 3.\n\n", "\n\nSo it is 3.", "Thus \\boxed{3}."],
    },
    "other scripts": {
        "problem": "Straße 12 hat 3 Häuser; 三条街有几栋房子？",
        "steps": [
            "Auf jeder Straße: drei Häuser, naïve cafe\u0301.",
            "三条街：3 × 3 = 9。",
            "Ответ: девять. الجواب ٩ \U0001f600\U0001f469\u200d\U0001f52c",
            "답은 \\boxed{9} ½ ﬁ “so” —…",
        ],
    },
    "formulas": {
        "problem": "Find $\\int_0^1 x^2\\,dx$.",
        "steps": [
            "$$\\int x^2\\,dx = \\frac{x^3}{3} + C$$",
            "\\begin{align*}\nF(1) - F(0) &= \\frac{1}{3} - 0 \\\\\n&= \\frac13\n\\end{align*}",
            "\\[\\boxed{\\frac{1}{3}}\\]",
        ],
    },
    "spaces": {
        "problem": "  How much is 1 + 1?  ",
        "steps": ["  Two spaces before.", "One space after ", "Tabs\tinside\t", "   ", "\u00a0Hard spaces\u00a0", "So 2."],
    },
    "empty step": {"problem": "What is 10 / 4?", "steps": ["10 / 4 = 2.5", "", "So \\boxed{2.5}."]},
    "ends that merge": {
        "problem": "Is 7 prime?\n",
        "steps": ["Try 2, 3, 5:", "no divisor (none);", "what else?", "\"Prime\".", "so yes!)", "7\n", "ok..."],
    },
    "many steps": {"problem": "Each day k, k apples are added. How many after 40 days?", "steps": _count(40)},
    "long step": {
        "problem": "Add the numbers from 1 to 120.",
        "steps": [
            "The sum is " + " + ".join(map(str, range(1, 121))) + ".",
            "By pairs: " + ", ".join(f"{k} + {121 - k} = 121" for k in range(1, 61)) + ".",
            "60 * 121 = 7260, so \\boxed{7260}.",
        ],
    },
}  # fmt: skip
"""Made traces. ``@`` stands for the mark of the preset that is tested."""


def trace_for(name: str, mark: str) -> tuple[str, list[str]]:
    """A trace with a mark in its place: the problem and the steps."""
    trace = TRACES[name]
    return trace["problem"].replace("@", mark), [step.replace("@", mark) for step in trace["steps"]]


MARKS = ("<extra_0>", "ки", "+", "\n", "7")


def all_texts() -> list[str]:
    """Texts that hold every word that a preset or its authors' code may tokenize: each piece alone, and what it is joined to."""
    found = [MATH_SYSTEM, CHAT_SYSTEM, "system\nuser\nassistant\n", "system\n\nuser\n\nassistant\n\n+"]
    found += ["Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", *"+-", "\n\n"]
    for name in TRACES:
        for mark in MARKS:
            problem, steps = trace_for(name, mark)
            numbered = [f"Step {i}: {step}" for i, step in enumerate(steps, start=1)]
            lines = [line for step in steps for line in step.split("\n")]
            found += [problem, f"{problem}\n", *steps, *map(str.strip, steps), *lines, "\n\n".join(numbered)]
            found += ["\n".join([problem, *steps, ""]), f"{problem.strip()} {steps[0].strip()}"]
    return found
