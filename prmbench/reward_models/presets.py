"""Presets: how the PRMs of the field are scored, with each detail fixed under a name. They are data, not code.

A preset fills in the fields of a card. What the card itself says, and what the user says, goes over it. Beside each preset stands
what it was read from: the card or the script of its authors, which was read and not run. No preset is `verified` yet: that takes
numbers that its authors produced, reproduced here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prmbench.errors import UserError, nearest

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Preset:
    """A named way of scoring.

    Attributes:
        of: The checkpoints that it is for.
        card: Fields of a card (`prmbench.reward_models.card.Card`).
        checked: What its details were read from.
        verified: Whether its scores were checked against numbers that its authors produced.
    """

    of: str
    card: dict[str, Any]
    checked: str
    verified: bool = False


_QWEN_MATH = {
    "kind": "classifier",
    "tokens": {"system": QWEN_SYSTEM},
    "marks": {"prompt": "chat", "mark": "<extra_0>", "tokenize": "pieces", "read": "at"},
}
_RLHFLOW = {
    "kind": "token_pair",
    "pair": ["+", "-"],
    "marks": {"prompt": "turns", "before_steps": " ", "mark": "+", "tokenize": "pieces", "read": "before"},
}
_NEWLINES = {"prompt": "text", "mark": "\n", "tokenize": "pieces", "read": "at"}

PRESETS: dict[str, Preset] = {
    "qwen2.5-math-prm": Preset(
        "Qwen/Qwen2.5-Math-PRM-7B and -72B",
        _QWEN_MATH,
        "the snippet of the model card: system message, <extra_0> after every step and the last, softmax, class 1; the head (two "
        "linear layers with a ReLU between) as vLLM and SGLang build it. The card tokenizes the whole conversation; <extra_0> is a "
        "special token, so the pieces between are the same",
    ),
    "qwen2.5-math-prm800k": Preset(
        "Qwen/Qwen2.5-Math-7B-PRM800K", _QWEN_MATH, "the snippet of the model card, as for qwen2.5-math-prm"
    ),
    "math-shepherd": Preset(
        "peiyi9979/math-shepherd-mistral-7b-prm",
        {
            "kind": "token_pair",
            "pair": ["+", "-"],
            "tokens": {"step_prefix": "Step {i}: "},
            "marks": {"prompt": "text", "bos": True, "before_steps": " ", "tokenize": "whole", "read": "at"}
            | {"mark": "ки", "before_mark": " ", "after_mark": "\n"},
        },
        "copies of the snippet of the model card in public code: the joined text is tokenized whole with its special tokens; the "
        "logits at the mark itself (id 12902), softmax over + (648) and - (387)",
    ),
    "rlhflow-mistral": Preset(
        "RLHFlow/Llama3.1-8B-PRM-Mistral-Data",
        _RLHFLOW,
        "RLHFlow's math-rm/prm_evaluate.py: a user turn a step, problem and first step joined by a space, the logits that predict "
        "the assistant's +. (ProcessBench's script joins by a blank line and takes the likeliest token of the whole vocabulary)",
    ),
    "rlhflow-deepseek": Preset(
        "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", _RLHFLOW, "RLHFlow's math-rm/prm_evaluate.py, as for rlhflow-mistral"
    ),
    "skywork-o1-open-prm": Preset(
        "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B",
        {"kind": "value_head", "marks": {**_NEWLINES, "bos": True, "before_steps": "\n"}},
        "skywork-o1-prm-inference, model_utils: bos, problem and newline, every step tokenized alone, then the id of the newline; "
        "v_head.summary on the last hidden state, sigmoid. Its steps are lines; here a newline inside a step stays text",
    ),
    "eurus-prm": Preset(
        "PRIME-RL/EurusPRM-Stage1 and -Stage2 (its reference: Qwen/Qwen2.5-Math-7B-Instruct)",
        {"kind": "implicit", "objective": "implicit_prm", "beta": 0.001}
        | {"tokens": {"step_prefix": "Step {i}: ", "separator": "\n\n"}},
        "ImplicitPRM's eval/processbench.py: steps 'Step i: ...' joined by blank lines, 0.001 times the prefix sum of the ratio "
        "and a sigmoid (the protocol prefix). It tokenizes prefixes anew, so its step ends can fall a token or two later",
    ),
    "progress-advantage": Preset(
        "any policy trained by RL, with the checkpoint that the RL began with as its reference: allenai/Olmo-3-7B-Instruct and "
        "-DPO, Qwen/Qwen3-14B and -Base",
        {"kind": "implicit", "beta": 1.0},
        "pa/scoring.py and pa/models.py of deeplearning-wisc/progress-advantage (arXiv 2606.26080): beta times log pi(token) less "
        "log pi_ref(token), over the tokens of a step: their mean is the protocol process_mean, their sum is process, and its "
        "running sum is prefix (runners/fa.py takes the lowest point of such a sum for the mistake). Open there: mean, sum, min, "
        "max or last, which it tunes for each backbone (its min and max are of each model alone, and are not here); beta is 1 by "
        "default. It scores actions of agents without a chat template; here steps are scored with the tokenizer's",
    ),
    "pure-prm": Preset(
        "jinachris/PURE-PRM-7B",
        {"kind": "classifier", "marks": _NEWLINES},
        "the model card, and PURE's experience_maker.py: the bare problem, every step tokenized alone, then the id of the newline; "
        "p(1) - p(0), threshold 0, which is logit 0",
    ),
    "reasonflux-prm": Preset(
        "Gen-Verse/ReasonFlux-PRM-7B",
        {**_QWEN_MATH, "tokens": {}},
        "ReasonFlux_PRM/README.md: <extra_0> after every step, no system message (the chat template may add one), class 1",
    ),
    "trl-prm": Preset(
        "what TRL's PRMTrainer trains, with its default separator",
        {"kind": "classifier", "marks": {**_NEWLINES, "one_token": False, "bos": "auto"}},
        "PRMTrainer.tokenize_row: prompt and steps each alone, the ids of the separator after every step, the label at the last of "
        "them. Where the tokenizer has a beginning-of-sequence token (Llama, Mistral, Gemma), it comes first",
    ),
    "genprm-style": Preset(
        "generative judges in the manner of RyanLiu112/GenPRM: one written check a step, then yes or no",
        {"kind": "judge"}
        | {"generation": {"n": 1, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 2048}},
        "GenPRM's genprm_inference.py: its sampling, P(yes) over yes and no at the verdict, averaged over samples. The prompt is "
        "our own and no code is run: not GenPRM's own protocol",
    ),
    "processbench-critic": Preset(
        "any instruction-tuned language model",
        {"kind": "critic", "generation": {"n": 1, "temperature": 0.0, "max_new_tokens": 8192}},
        "ProcessBench's run_eval.py: paragraphs tagged from 0, last boxed number, greedy, up to 8,192 tokens; the prompt in our "
        "own words",
    ),
    "processbench-critic-maj8": Preset(
        "any instruction-tuned language model",
        {"kind": "critic", "generation": {"n": 8, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 8192}},
        "ProcessBench's run_eval.py --use_voting, as processbench-critic. Its script lets a box without a number vote; here such "
        "votes are dropped, as the paper says of what cannot be parsed",
    ),
}


def find_preset(name: str) -> Preset:
    """Find a preset.

    Args:
        name: Its name.

    Returns:
        The preset.

    Raises:
        UserError: There is none of this name; the nearest one is given.
    """
    if name not in PRESETS:
        raise UserError(
            f"preset '{name}' of reward models is not known{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def fill_in(preset: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Put fields over those of a preset, field by field inside objects too.

    Args:
        preset: Fields that are filled in.
        over: Fields that go over them.

    Returns:
        Both together; the arguments stay as they are.
    """
    out = dict(preset)
    for name, value in over.items():
        inner = out.get(name)
        out[name] = fill_in(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return out
