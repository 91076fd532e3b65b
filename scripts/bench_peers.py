"""Measure training steps beside those of other projects: time, and peak memory, as ratios.

    python scripts/bench_peers.py [KIND ...] [--ipvrm RELEASE] [--repeats 2]

| kind | ours | the peer |
|---|---|---|
| grpo | `PolicyTrainer`, verifiable rewards | `GRPOTrainer` of TRL |
| dpo | `RewardModelTrainer`, the objective `dpo` | `DPOTrainer` of TRL |
| ipvrm | the same, the objective `ipvrm` | the paper's release: its model, its loss, AdamW, clipping |

The peers are run as they are. The release is read from a clone of github.com/gaoshiping/IPVRM, which `--ipvrm` names; without one
its kind is left out. TRL has no trainer of explicit PRMs from 1.13 on.

Both sides begin from the same random weights, see the same token ids, and compute in float32. Completions are given, so nothing
is sampled, and responses are equally long, so that nothing is padded. A step of `grpo` has 2 prompts with 4 completions each, the
log-probs of pi_old, and two updates. A step of `dpo` and `ipvrm` has 4 pairs, the log-probs of the reference, and one update; the
first losses must agree.

Every side runs in processes of its own, the two in turns. Seconds are of the processor, since a busy machine stretches those of the
clock; of a process the fastest step counts. The peak is resident memory over what it was when the models were loaded. It holds the
gradients and AdamW's moments, which are the same on both sides; the second figure is without them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_tools import alternate

from prmbench.studies.step_bench import random_llama

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROWS, SAMPLES = 8, 4
"""Sequences of a step, and completions of a prompt in `grpo`."""
RATE = 1e-6


class Finished(Exception):
    """Ends a training loop before it saves anything."""


class Meter:
    """Takes the time of steps and the peak of memory.

    Attributes:
        losses: Losses of the steps, where they are logged.
    """

    def __init__(self, steps: int, updates: int = 1) -> None:
        """Wait for the start.

        Args:
            steps: Number of steps that count. One before them makes the gradients and AdamW's moments.
            updates: Updates of a step.
        """
        self.steps, self.updates, self.done = steps, updates, 0
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self.before = 0

    def start(self) -> None:
        """Take memory as it is, and begin to count its peak from here."""
        self.before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        self.marks.append((time.perf_counter(), time.process_time()))

    def update(self) -> None:
        """Count an update, and end the loop after the last one."""
        self.done += 1
        if self.done % self.updates == 0:
            self.marks.append((time.perf_counter(), time.process_time()))
        if self.done == (1 + self.steps) * self.updates:
            raise Finished

    def found(self, parameters: int) -> dict[str, float]:
        """Give the figures.

        Args:
            parameters: Number of weights that are trained.
        """
        clock, processor = (np.diff([mark[i] for mark in self.marks])[1:] for i in (0, 1))
        peak = memory("VmHWM") - self.before
        figures = {"seconds": processor.min(), "clock": clock.min(), "peak": peak, "rest": peak - 12 * parameters}
        return {
            **{name: float(value) for name, value in figures.items()},
            "loss": self.losses[0] if self.losses else 0.0,
        }


def memory(name: str) -> int:
    """Read bytes of this process from the kernel: ``VmRSS``, or its peak ``VmHWM``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def watch(meter: Meter) -> Any:
    """Make a callback of transformers' Trainer that serves a meter."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.update()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            meter.losses += [logs["loss"]] if "loss" in logs else []

    return Watch()


def words(vocabulary: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose token i is the word ``t<i>``, so that texts and ids say the same."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<end>": 0, "<unk>": 1, **{f"t{i}": i for i in range(2, vocabulary)}}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>", unk_token="<unk>")
    made.chat_template = "{% for one in messages %}{{ one['content'] }} {{ '<end>' }}{% endfor %}"
    return made


def text(ids: np.ndarray) -> str:
    """Write token ids as words."""
    return " ".join(f"t{i}" for i in ids)


def rows_of(options: argparse.Namespace, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw prompts, and responses that end with the end of turn. Shapes [prompts, p] and [prompts, samples, t]."""
    rng, quarter = np.random.default_rng(1), options.tokens // 4
    prompts = rng.integers(2, options.vocabulary, (ROWS // samples, quarter))
    responses = rng.integers(2, options.vocabulary, (ROWS // samples, samples, options.tokens - quarter))
    responses[..., -1] = 0
    return prompts, responses


def right(prompt: int, sample: int) -> bool:
    """Say which samples of a prompt are right: both outcomes are among each prompt's."""
    return sample <= prompt % 3


def shared(folder: Path, rows: int) -> dict[str, Any]:
    """Give the arguments of a trainer of TRL that are those of our recipes."""
    return {
        "output_dir": str(folder), "learning_rate": RATE, "lr_scheduler_type": "constant", "weight_decay": 0.0,
        "max_grad_norm": 1.0, "gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "per_device_train_batch_size": rows, "max_steps": 1_000, "logging_steps": 1,
    }  # fmt: skip


def grpo(options: argparse.Namespace, folder: Path, meter: Meter, side: str) -> Any:
    """Make the trainer of a policy on given completions."""
    prompts, responses = rows_of(options, SAMPLES)
    tokenizer = words(options.vocabulary)
    model = random_llama(options.vocabulary, options.width, options.layers, seed=0)
    if side == "peer":
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        def stored(asked: list[str], _: Any) -> dict[str, Any]:
            numbers = [int(one) for one in asked]
            flat = [responses[p, k % SAMPLES].tolist() for k, p in enumerate(numbers)]
            return {"prompt_ids": [prompts[p].tolist() for p in numbers], "completion_ids": flat, "logprobs": None}

        def reward(prompts: list[str], **_: Any) -> list[float]:
            return [float(right(int(p), k % SAMPLES)) for k, p in enumerate(prompts)]

        args = GRPOConfig(
            **shared(folder, options.micro),
            gradient_accumulation_steps=ROWS // 2 // options.micro,
            steps_per_generation=ROWS // options.micro,
            num_generations=SAMPLES,
            max_completion_length=responses.shape[2],
            beta=0.0,
            loss_type="grpo",
            disable_dropout=True,
        )
        data = Dataset.from_list([{"prompt": str(p)} for p in range(len(prompts))])
        return GRPOTrainer(
            model, reward, args, data, processing_class=tokenizer, rollout_func=stored, callbacks=[watch(meter)]
        )
    from prmbench.data.problems import Problem
    from prmbench.data.rollouts import Rollout
    from prmbench.data.tokens import TraceEncoder
    from prmbench.data.verdicts import Verdict
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.rl.batch import PromptGroup
    from prmbench.training.rl.recipe import RLRecipe
    from prmbench.training.rl.trainer import PolicyTrainer, Setup

    class Stored(PolicyTrainer):
        def _sample(self, indices: Any) -> list[PromptGroup]:
            made = []
            for p in indices:
                verdicts = [Verdict.CORRECT if right(p, k) else Verdict.WRONG for k in range(SAMPLES)]
                rollouts = (
                    Rollout(str(p), k, "", "", "", responses[p, k], "stop", verdicts[k]) for k in range(SAMPLES)
                )
                made.append(PromptGroup(prompts[p], tuple(rollouts)))
            return made

    recipe = RLRecipe(
        model="policy", problems="problems", output=str(folder), method="grpo", batch_size=len(prompts), oversample=1,
        samples=SAMPLES, minibatches=2, micro_batch_size=options.micro, max_new_tokens=responses.shape[2], max_steps=1_000,
        save_every=1_000, learning_rate=RATE,
    )  # fmt: skip
    give_logprobs(model, "the policy")
    problems = [(Problem(str(p), "", ""), prompts[p]) for p in range(len(prompts))]
    setup = Setup(recipe, problems, TraceEncoder(tokenizer), frozenset({0}), 1, folder)
    return Stored(setup, model, [watch(meter)])


def pairs(options: argparse.Namespace, folder: Path, meter: Meter, side: str) -> Any:
    """Make the trainer of a reward model on pairs, or the loop of the release."""
    prompts, responses = rows_of(options, 2)
    model, reference = (random_llama(options.vocabulary, options.width, options.layers, seed) for seed in (0, 1))
    reference.requires_grad_(False)
    if side == "peer" and options.kind == "ipvrm":
        return released(options, meter, model, reference)
    tokenizer = words(options.vocabulary)
    if side == "peer":
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        rows = []
        for p in range(ROWS // 2):  # TRL adds the end of turn
            chosen, rejected = (f" {text(responses[p, k, :-1])}" for k in (0, 1))
            rows.append({"prompt": text(prompts[p]), "chosen": chosen, "rejected": rejected})
        args = DPOConfig(**shared(folder, ROWS // 2), beta=0.05, max_length=None, dataloader_drop_last=True)
        data = Dataset.from_list(rows)
        return DPOTrainer(
            model, reference, args, train_dataset=data, processing_class=tokenizer, callbacks=[watch(meter)]
        )
    from prmbench.training.data.pairs import Pair, Response
    from prmbench.training.model.forward import give_logprobs
    from prmbench.training.model.measured import measured_arguments
    from prmbench.training.rm.recipe import RMRecipe
    from prmbench.training.rm.trainer import PairData, RewardModelTrainer

    recipe = RMRecipe(
        model="rm", data="rollouts", output=str(folder), objective=options.kind, batch_size=ROWS // 2, micro_batch_size=ROWS // 2,
        max_steps=1_000, save_every=1_000, learning_rate=RATE, schedule="constant", warmup_ratio=0.0, weight_decay=0.0,
        reference_logprobs="as-needed",
    )  # fmt: skip
    give_logprobs(model, "the reward model")
    give_logprobs(reference, "the reference")
    data = [
        Pair(str(p), *(Response(np.concatenate([prompts[p], responses[p, k]]), len(prompts[p])) for k in (0, 1)))
        for p in range(ROWS // 2)
    ]
    made = RewardModelTrainer(
        recipe,
        held_out=PairData([], None),
        make_reference=lambda _: reference,
        model=model.train(),
        processing_class=tokenizer,
        train_dataset=PairData(data, None),
        callbacks=[watch(meter)],
        args=measured_arguments(recipe, folder, 1_000, None, held=False, fresh=True),
    )
    made.args.logging_steps = 1
    return made


def released(options: argparse.Namespace, meter: Meter, model: Any, reference: Any) -> Any:
    """Make the loop of the paper's release: its model and its loss, and what its script does around them."""
    import torch

    sys.path[:0] = [str(options.ipvrm), str(options.ipvrm / "step2_rm_training")]
    release = importlib.import_module("train_rm_with_accelerate")
    settings = SimpleNamespace(loss_type="ipvrm", reward_type="logp_ratio", beta=10.0, gamma=5.0)
    wrapped = release.RewardModel(model, settings.reward_type, logprob_chunk_size=128).train()
    prompts, responses = rows_of(options, 2)
    rows = [(p, k) for p in range(ROWS // 2) for k in (0, 1)]
    ids = torch.from_numpy(np.stack([np.concatenate([prompts[p], responses[p, k]]) for p, k in rows]))
    mask = torch.zeros_like(ids)
    mask[:, prompts.shape[1] :] = 1
    labels = torch.tensor([1.0 - k for _, k in rows])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "outcome_labels": labels,
    }
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=RATE, weight_decay=0.0)

    def train() -> None:
        meter.start()
        while True:
            loss, _ = release.compute_loss_and_metrics(wrapped, reference, batch, settings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(wrapped.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            meter.losses.append(float(loss.detach()))
            meter.update()

    return SimpleNamespace(train=train, model=model)


MAKERS: dict[str, Callable[[argparse.Namespace, Path, Meter, str], Any]] = {
    "grpo": grpo, "dpo": pairs, "ipvrm": pairs,
}  # fmt: skip


def worker(options: argparse.Namespace) -> None:
    """Run one side of one kind. Prints JSON."""
    import torch

    torch.set_num_threads(options.threads)
    options.kind, side = options.way.split("/")
    meter = Meter(options.steps, updates=2 if options.kind == "grpo" else 1)
    with tempfile.TemporaryDirectory() as folder:
        made = MAKERS[options.kind](options, Path(folder), meter, side)
        with contextlib.suppress(Finished):
            made.train()
        parameters = sum(one.numel() for one in made.model.parameters() if one.requires_grad)
        print(json.dumps(meter.found(parameters)))
    sys.stdout.flush()


def report(kind: str, ours: list[dict[str, float]], peer: list[dict[str, float]]) -> list[str]:
    """Write the medians of both sides, and the ratios with the least and the largest of the turns."""
    lines = []
    for name, side in (("ours", ours), ("peer", peer)):
        middle = {key: float(np.median([one[key] for one in side])) for key in side[0]}
        lines.append(
            f"{kind:6} {name:6} {middle['seconds']:7.2f} s ({middle['clock']:.2f} by the clock) {middle['peak'] / 2**20:8,.0f} MiB "
            f"{middle['rest'] / 2**20:8,.0f} MiB"
        )
    shown = []
    for key in ("seconds", "peak", "rest"):
        ratios = [a[key] / b[key] for a, b in zip(ours, peer, strict=True)]
        shown.append(f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    lines.append(f"{kind:6} ratio  {shown[0]} in time, {shown[1]} in memory, {shown[2]} without gradients and moments")
    if kind != "grpo":
        lines.append(f"{kind:6} largest difference of first losses {abs(ours[0]['loss'] - peer[0]['loss']):.1e}")
    return lines


def main() -> None:
    """Take the sides in turn, kind by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"what to measure: {', '.join(MAKERS)}; all by default"
    )
    parser.add_argument("--ipvrm", type=Path, help="a clone of the paper's release")
    for name, value in {
        "vocabulary": 49_152,
        "width": 576,
        "layers": 4,
        "tokens": 128,
        "micro": 4,
        "threads": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=2, help="processes of each side")
    parser.add_argument("--steps", type=int, default=1, help="steps of a process that count")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        worker(options)
        return
    print(
        f"vocabulary {options.vocabulary:,}, width {options.width}, {options.layers} layers, sequences of {options.tokens} tokens, "
        f"{options.threads} thread, float32; medians of {options.repeats} processes each"
    )
    for kind in options.kinds or MAKERS:
        if kind == "ipvrm" and options.ipvrm is None:
            print("ipvrm  left out: --ipvrm names no clone of the release")
            continue
        found = alternate([f"{kind}/ours", f"{kind}/peer"], options.repeats)
        print("\n".join(report(kind, *found.values())), flush=True)


if __name__ == "__main__":
    main()
