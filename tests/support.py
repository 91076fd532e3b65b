"""Small real tokenizers, models and traces, made in the tests."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# In the manner of reasoning models: the rendering of an answer gains thinking tags, and so, on request, the prompt.
THINKING_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{{ m['content'] | trim }}{% else %}{{ m['content'] }}{% endif %}"
    "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

SPECIALS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<unk>", "<s>"]

CORPUS = [
    "Tom has 3 apples and buys 4 more, so he has 3 + 4 = 7 apples.\n\nThen he eats 2, which leaves 5.",
    "Therefore the answer is \\boxed{12}. We check: 12 = 3 * 4.\n\nStep 1: Let x be the number of coins.",
    "Die Lösung ist 42. Ответ: 7. 答案是三。  Spaces   and\ttabs.\n\nFinally, 100 / 25 = 4.",
]


def byte_level(*, trim_offsets: bool = True, split: bool = True) -> Tokenizer:
    """Byte-level BPE in the manner of GPT-2.

    trim_offsets: what its post-processor does to offsets. split: without, merges run across words, newlines and steps.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer


def sentencepiece_style() -> Tokenizer:
    """BPE over text with spaces replaced and a space put before it, unknown characters as bytes (Llama-2 style)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:2] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def word_level() -> Tokenizer:
    """Whole words, white space dropped, everything else unknown."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False))
    return tokenizer


def wrap(tokenizer: Tokenizer, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A transformers tokenizer with a chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=template,
    )


def tiny_llama(vocabulary: int, seed: int = 0, **config: object) -> LlamaForCausalLM:
    """Two layers of width 32, random weights large enough for distinct log-probs."""
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def save_checkpoint(folder: Path, seed: int = 0, template: str | None = TEMPLATE, **config: object) -> Path:
    """Write a tiny model and its tokenizer as a checkpoint folder."""
    tokenizer = wrap(byte_level(), template)
    tiny_llama(len(tokenizer), seed, **config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def padded_copy(base: Path, folder: Path, rows: int = 8) -> Path:
    """The same model with more logits than its tokenizer has tokens; the others are large."""
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(base)
    size = len(model.lm_head.weight)
    model.resize_token_embeddings(size + rows, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[size:].normal_(std=3.0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a checkpoint folder in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **fields: object) -> None:
    """Change fields of a JSON file in place."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def make_traces(n: int, seed: int = 0) -> list[dict[str, object]]:
    """Synthetic traces: sums whose steps are right, or wrong from a known step on."""
    rng = random.Random(seed)
    traces = []
    for i in range(n):
        numbers = [rng.randint(1, 30) for _ in range(rng.randint(3, 7))]
        label = rng.randrange(len(numbers) - 1) if i % 2 else -1
        total, steps = numbers[0], []
        for k, number in enumerate(numbers[1:]):
            result = total + number + (rng.randint(1, 5) if k == label else 0)
            steps.append(f"Adding {number} to {total} gives {total} + {number} = {result}.")
            total = result
        problem = "What is " + " + ".join(map(str, numbers)) + "?"
        traces.append(
            {
                "id": f"t{i}",
                "generator": f"g{i % 3}",
                "problem": problem,
                "steps": steps,
                "final_answer_correct": label < 0,
                "label": label,
            }
        )
    return traces


def write_traces(path: Path, n: int, seed: int = 0) -> Path:
    """Write `make_traces` as JSON lines."""
    path.write_text("".join(json.dumps(t) + "\n" for t in make_traces(n, seed)), encoding="utf-8")
    return path


def browse(chromium: str, page: Path, profile: Path, *arguments: str) -> str:
    """Open a page in a headless browser that talks to nobody. Returns what it prints."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
    command = [chromium, *quiet, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def write_candidates(path: Path) -> Path:
    """Four problems with three completions each, the first of which is right."""
    records = [
        {
            "id": f"p{i}",
            "problem": f"What is {i} + 1?",
            "answer": str(i + 1),
            "samples": [{"text": f"It is \\boxed{{{i + 1 + k}}}" + "." * k} for k in range(3)],
        }
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def launch(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in several processes on the CPU, as ``accelerate launch`` does."""
    with socket.socket() as probe:  # a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    how = ["--multi_gpu", "--num_processes", processes, "--num_machines", 1, "--mixed_precision", "no"]
    how += ["--dynamo_backend", "no", "--main_process_port", port]
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400)


class Page(HTMLParser):
    """An HTML page: tags that appear, their attributes' names, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


LOGPROB_TOLERANCE = 1e-3
"""Between vLLM and transformers in float32 on a CPU; what was seen is 2e-5."""


def token_prompts(folder: Path, n: int = 12) -> list[np.ndarray]:
    """Token ids of made problems."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [np.array(tokenizer.encode(t["problem"])[:40]) for t in make_traces(n)]
