"""Presets: how the PRMs of the field are scored, with each detail fixed under a name. They are data, not code.

A preset fills in the fields of a card. What the card itself says, and what the user says, goes over it. Beside each preset stands
what it was read from: the card or the script of its authors. A preset is verified where its authors' own code was run on tiny
checkpoints of its architecture and gave the same scores (`scripts/make_preset_goldens.py`,
`tests/reward_models/test_verified_presets.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prmbench.errors import UserError, nearest

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Verified:
    """What the scores of a preset were compared with.

    Attributes:
        code: The authors' code: repository, file and functions.
        commit: The commit of the repository.
        tolerance: The largest difference that the test allows, in words.
    """

    code: str
    commit: str
    tolerance: str = "1e-5 of a probability in float32"

    def __str__(self) -> str:
        return f"{self.code}, at {self.commit[:10]}, within {self.tolerance}"


@dataclass(frozen=True)
class Preset:
    """A named way of scoring.

    Attributes:
        of: The checkpoints that it is for.
        card: Fields of a card (`prmbench.reward_models.card.Card`).
        checked: What its details were read from.
        verified: What its scores were compared with; None: they were not.
        reason: Why they were not; empty where they were.
    """

    of: str
    card: dict[str, Any]
    checked: str
    verified: Verified | None = None
    reason: str = ""


_QWEN_MATH = {
    "kind": "classifier",
    "tokens": {"system": QWEN_SYSTEM},
    "marks": {"prompt": "chat", "mark": "<extra_0>", "tokenize": "pieces", "read": "at"},
}
_RLHFLOW = {
    "kind": "token_pair",
    "pair": ["+", "-"],
    "marks": {"prompt": "turns", "before_steps": " ", "mark": "+", "strip": True, "tokenize": "pieces"}
    | {"read": "before"},
}
_RLHFLOW_AT = "fc39179f5a9a4dd75047a4c0311672905b9d9a04"
_QWEN_CODE = Verified(
    "huggingface/search-and-learn, src/sal/models/reward_models.py (Qwen_2_5_Math.score, the snippet of Qwen's card)",
    "6f81cac8b1ca4c4be9fabefc27a856c928f3ae7f",
)
_NEWLINES = {"prompt": "text", "mark": "\n", "tokenize": "pieces", "read": "at"}

PRESETS: dict[str, Preset] = {
    "qwen2.5-math-prm": Preset(
        "Qwen/Qwen2.5-Math-PRM-7B and -72B",
        _QWEN_MATH,
        "the snippet of the model card: system message, <extra_0> after every step and the last, softmax, class 1; the head (two "
        "linear layers with a ReLU between) as vLLM and SGLang build it. The card tokenizes the whole conversation; <extra_0> is a "
        "special token, so the pieces between are the same",
        _QWEN_CODE,
    ),
    "qwen2.5-math-prm800k": Preset(
        "Qwen/Qwen2.5-Math-7B-PRM800K",
        _QWEN_MATH,
        "the snippet of the model card, as for qwen2.5-math-prm",
        _QWEN_CODE,
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
        Verified(
            "openreasoner/openr, prm/infer_fns.py (_math_shepherd_infer_fn, the snippet of the model card)",
            "54ae004c69623ebb9a97b22211d6b236033a710d",
        ),
    ),
    "rlhflow-mistral": Preset(
        "RLHFlow/Llama3.1-8B-PRM-Mistral-Data",
        _RLHFLOW,
        "RLHFlow's math-rm/prm_evaluate.py: a user turn a step, each stripped of white space, problem and first step joined by a "
        "space, the logits that predict the assistant's +. (ProcessBench's script joins by a blank line and takes the likeliest "
        "token of the whole vocabulary)",
        Verified("RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py (select_sample, type Mistral)", _RLHFLOW_AT),
    ),
    "rlhflow-deepseek": Preset(
        "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
        _RLHFLOW,
        "RLHFlow's math-rm/prm_evaluate.py, as for rlhflow-mistral",
        Verified("RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py (select_sample, type Deepseek)", _RLHFLOW_AT),
    ),
    "skywork-o1-open-prm": Preset(
        "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B",
        {"kind": "value_head", "marks": {**_NEWLINES, "bos": True, "before_steps": "\n", "split": True}},
        "skywork-o1-prm-inference, model_utils: bos, problem and newline, every line tokenized alone, then the newline's id; "
        "v_head.summary on the last hidden state, sigmoid. Its steps are lines; a step of several lines has the score of its last",
        Verified(
            "SkyworkAI/skywork-o1-prm-inference, model_utils (prepare_input, PRM_MODEL, derive_step_rewards)",
            "719b56b17447405e0f10e6c0360a581cf4ffa9c1",
        ),
    ),
    "eurus-prm": Preset(
        "PRIME-RL/EurusPRM-Stage1 and -Stage2 (its reference: Qwen/Qwen2.5-Math-7B-Instruct)",
        {"kind": "implicit", "objective": "implicit_prm", "beta": 0.001}
        | {"tokens": {"step_prefix": "Step {i}: ", "separator": "\n\n", "step_ends": "prefixes"}},
        "ImplicitPRM's eval/processbench.py: steps 'Step i: ...' joined by blank lines, 0.001 times the prefix sum of the ratio "
        "and a sigmoid (the protocol prefix). It tokenizes prefixes anew: a step ends some tokens late, and so it does here",
        Verified(
            "PRIME-RL/ImplicitPRM, eval/processbench.py (inference)",
            "c04417559fdbd59738187c613c6c31821e964431",
            "1e-5 of a logit in float32 (protocol prefix)",
        ),
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
        reason="the authors' code scores actions of agents and was read, not run; log-ratios are compared with transformers' own",
    ),
    "pure-prm": Preset(
        "jinachris/PURE-PRM-7B",
        {"kind": "classifier", "marks": _NEWLINES},
        "the model card, and PURE's experience_maker.py: the bare problem, every step tokenized alone, then the id of the newline; "
        "p(1) - p(0), threshold 0, which is logit 0",
        Verified(
            "CJReinforce/PURE, verl/workers/fsdp_workers.py (ProcessRewardModelWorker)",
            "83f9869c1e4ba2e1fce5b8a0e15e060fd7e4578f",
            "1e-5 of p(1) - p(0) in float32",
        ),
    ),
    "reasonflux-prm": Preset(
        "Gen-Verse/ReasonFlux-PRM-7B (the 1.5B gives one number to a whole answer, and is no PRM in this sense)",
        {**_QWEN_MATH, "tokens": {}},
        "ReasonFlux_PRM/README.md: <extra_0> after every step, no system message (the chat template may add one), class 1",
        Verified(
            "Gen-Verse/ReasonFlux, ReasonFlux_PRM/README.md and utils/rm_utils.py (make_step_rewards)",
            "8980b8b9298e6a02f730a14579106bd5ba34fcb3",
        ),
    ),
    "trl-prm": Preset(
        "what TRL's PRMTrainer trains, with its default separator",
        {"kind": "classifier", "marks": {**_NEWLINES, "one_token": False, "bos": "auto"}},
        "PRMTrainer.tokenize_row: prompt and steps each alone, the ids of the separator after every step, the label at the last of "
        "them. Where the tokenizer has a beginning-of-sequence token (Llama, Mistral, Gemma), it comes first",
        Verified(
            "huggingface/trl, trl/experimental/prm/prm_trainer.py (PRMTrainer.tokenize_row; the trainer's classifier)",
            "f2cd57710ae345ea6428ae95363267fcf38a3dc8",
        ),
    ),
    "genprm-style": Preset(
        "generative judges in the manner of RyanLiu112/GenPRM: one written check a step, then yes or no",
        {"kind": "judge"}
        | {"generation": {"n": 1, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 2048}},
        "GenPRM's genprm_inference.py: its sampling, P(yes) over yes and no at the verdict, averaged over samples. The prompt is "
        "our own and no code is run: not GenPRM's own protocol",
        reason="its prompt is our own and it runs no code, so that GenPRM's numbers are not those that it would give",
    ),
    "processbench-critic": Preset(
        "any instruction-tuned language model",
        {"kind": "critic", "generation": {"n": 1, "temperature": 0.0, "max_new_tokens": 8192}},
        "ProcessBench's run_eval.py: paragraphs tagged from 0, last boxed number, greedy, up to 8,192 tokens; the prompt in our "
        "own words",
        reason="its prompt is in our own words, because that of the script is not ours to copy; so the script's texts are others",
    ),
    "processbench-critic-maj8": Preset(
        "any instruction-tuned language model",
        {"kind": "critic", "generation": {"n": 8, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 8192}},
        "ProcessBench's run_eval.py --use_voting, as processbench-critic. Its script lets a box without a number vote; here such "
        "votes are dropped, as the paper says of what cannot be parsed",
        reason="its prompt is in our own words, because that of the script is not ours to copy; so the script's texts are others",
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
