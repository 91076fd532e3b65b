"""Supervised fine-tuning on TRL's SFTTrainer, on ids tokenized as they are at evaluation (DESIGN 4.1)."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.data.problems import Problem, load_problems
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.hf import HFEngine
from prmbench.engines.loading import LoadOptions, load_causal_lm, load_tokenizer, locate
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.results.store import write_atomically
from prmbench.rollouts import Policy, prompt_ids, sample
from prmbench.training.chats import encode_chat, load_chats
from prmbench.verify import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback


class LoraOptions(BaseModel):
    """A low-rank adapter instead of all weights."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(128, ge=1, description="rank")
    alpha: int = Field(128, ge=1, description="scaling factor")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout")
    targets: str | list[str] = Field("all-linear", description="modules")
    merge: bool = Field(True, description="save the merged weights, so that the result is an ordinary checkpoint")


class StopOptions(BaseModel):
    """Stop when the policy's measured pass rate is reached."""

    model_config = ConfigDict(extra="forbid")

    pass_rate: float = Field(gt=0, le=1, description="stop at or above this share of right completions, temperature 1")
    problems: str = Field(description="file of problems to measure on; not those that are trained on")
    every: int = Field(50, ge=1, description="steps between two measurements")
    n: int = Field(200, ge=1, description="problems of a measurement, one completion each")
    max_new_tokens: int = Field(512, ge=1, description="of a completion")
    prompt: str = Field("bare", description="prompt template, by name")


class SFTRecipe(BaseModel):
    """A supervised fine-tuning run."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="checkpoint to start from: folder or Hub id")
    data: str = Field(description="chats: a file of {messages} records")
    output: str = Field(description="folder of the checkpoint that is written")
    held_out: int = Field(0, ge=0, description="records kept back from the end of the data; their loss is logged")
    max_length: int = Field(3072, ge=8, description="longer records are left out and counted")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after this many updates; over epochs")
    batch_size: int = Field(64, ge=1, description="records of an update, over all processes")
    micro_batch_size: int = Field(8, ge=1, description="records of one forward pass on one device")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    schedule: str = Field("cosine", description="learning-rate schedule: cosine, linear, constant")
    warmup_ratio: float = Field(0.01, ge=0, lt=1, description="share of the updates spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    dtype: str = Field("auto", description="of the weights: auto (float32 on CPU, bfloat16 on CUDA) or a torch name")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    lora: LoraOptions | None = Field(None, description="null: all weights are trained")
    stop: StopOptions | None = Field(None, description="null: the whole schedule is run")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )
    save_every: int = Field(500, ge=1, description="steps between two saved states; a killed run goes on from the last")
    seed: int = Field(0, ge=0, description="of data order and dropout")

    @model_validator(mode="after")
    def _batches_fit(self) -> SFTRecipe:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"schedule '{self.schedule}': expected cosine, linear or constant")
        return self


@dataclass(frozen=True)
class SFTResult:
    """What a run did. history: the trainer's log and the measured pass rates, by step."""

    output: Path
    steps: int
    n_records: int
    n_overlong: int
    pass_rate: float | None
    history: list[dict[str, Any]]


def train_sft(recipe: SFTRecipe, *, log: Callable[[str], None] = lambda _: None) -> SFTResult:
    """Run a recipe; writes the checkpoint, its tokenizer and ``sft.json`` (recipe and history).

    Every `save_every` steps the whole state is kept in ``trainer/``; the same call goes on from there after a kill.

    Args:
        log: called with a line for every measurement.

    Raises:
        UserError: a wrong model or data file, or no record short enough.
    """
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from transformers.utils import logging as transformers_logging

    try:
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError:
        raise UserError("training needs TRL, which is not installed: pip install 'prmbench[train]'") from None

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "model")
    tokenizer = load_tokenizer(folder, options)
    encoder = TraceEncoder(tokenizer, recipe.tokens)
    records = [encode_chat(encoder, chat) for chat in load_chats(recipe.data)]
    short = [(ids, p) for ids, p in records if len(ids) <= recipe.max_length]
    kept, held = short[: len(short) - recipe.held_out], short[len(short) - recipe.held_out :]
    if not kept:
        raise UserError(
            f"{recipe.data}: no record is left to train on (max_length {recipe.max_length}, held_out {recipe.held_out})"
        )
    train, heldout = (
        Dataset.from_dict(
            {
                "input_ids": [ids.tolist() for ids, _ in part],
                "completion_mask": [[0] * p + [1] * (len(ids) - p) for ids, p in part],
            }
        )
        for part in (kept, held)
    )
    model = load_causal_lm(folder, options).train()
    output = Path(recipe.output)
    states = output / "trainer"
    _claim(states, recipe)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    updates = recipe.max_steps or math.ceil(recipe.epochs * len(kept) / recipe.batch_size)
    config = SFTConfig(
        output_dir=str(states),
        max_length=None,
        completion_only_loss=True,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.micro_batch_size,
        per_device_eval_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=max(1, recipe.batch_size // (recipe.micro_batch_size * processes)),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup_ratio * updates),
        weight_decay=recipe.weight_decay,
        gradient_checkpointing=recipe.gradient_checkpointing,
        bf16=False,
        logging_steps=max(1, updates // 50),
        eval_strategy="epoch" if held else "no",
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    adapter = None
    if recipe.lora is not None:
        from peft import LoraConfig

        adapter = LoraConfig(
            r=recipe.lora.rank,
            lora_alpha=recipe.lora.alpha,
            lora_dropout=recipe.lora.dropout,
            target_modules=recipe.lora.targets,
            task_type="CAUSAL_LM",
        )
    measure = _Measurement(recipe.stop, encoder, recipe.seed, log) if recipe.stop else None
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=heldout if held else None,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[measure.callback()] if measure else [],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        before = [{"step": 0, **trainer.evaluate()}] if held else []  # train() starts a new log
        last = get_last_checkpoint(str(states)) if states.is_dir() else None
        if last is not None:
            log(f"going on from {last}")
        trainer.train(resume_from_checkpoint=last)
    finally:
        if measure:
            measure.close()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if recipe.lora is not None and recipe.lora.merge:
        trained = trained.merge_and_unload()
    if trainer.is_world_process_zero():
        trained.save_pretrained(output)
        tokenizer.save_pretrained(output)
    history = [*before, *trainer.state.log_history, *(measure.history if measure else [])]
    result = SFTResult(
        output,
        trainer.state.global_step,
        len(kept),
        len(records) - len(short),
        measure.last if measure else None,
        history,
    )
    if trainer.is_world_process_zero():
        report = {
            "recipe": recipe.model_dump(),
            "steps": result.steps,
            "pass_rate": result.pass_rate,
            "history": history,
        }
        write_atomically(output / "sft.json", json.dumps(report, indent=2) + "\n")
        shutil.rmtree(states, ignore_errors=True)
    return result


def _claim(states: Path, recipe: SFTRecipe) -> None:
    """Saved states belong to one recipe: another one must not go on from them."""
    mark = states / "recipe.json"
    wanted = recipe.model_dump_json()
    if mark.exists() and mark.read_text(encoding="utf-8") != wanted:
        raise UserError(f"{states}: holds the state of a run of another recipe; delete it, or set another output")
    states.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, wanted)


class _Measurement:
    """Measures the pass rate every few steps and stops the trainer when it is high enough."""

    def __init__(self, options: StopOptions, encoder: TraceEncoder, seed: int, log: Callable[[str], None]) -> None:
        self.options, self.encoder, self.seed, self.log = options, encoder, seed, log
        self.prompt: PromptTemplate = find_prompt(options.prompt)
        self.problems: list[Problem] = load_problems(options.problems, options.n)
        self.prompts: list[NDArray[np.int64]] | None = None
        self.verifier = Verifier()
        self.history: list[dict[str, Any]] = []

    @property
    def last(self) -> float | None:
        """The last measured pass rate."""
        return self.history[-1]["pass_rate"] if self.history else None

    def close(self) -> None:
        """Stop the verifier's workers."""
        self.verifier.close()

    def pass_rate(self, model: PreTrainedModel) -> float:
        """Share of right completions at temperature 1, one a problem."""
        was_training = model.training
        model.eval()
        policy = Policy(HFEngine(model), self.encoder, "the model in training", "")
        if self.prompts is None:
            self.prompts = prompt_ids(policy, self.problems, self.prompt)
        batches = sample(
            policy,
            self.problems,
            self.prompts,
            self.verifier,
            style=self.prompt.style,
            n=1,
            params=SamplingParams(max_new_tokens=self.options.max_new_tokens),
            seed=self.seed,
            batch_tokens=32_768,
        )
        right = [rollout.correct for batch in batches for rollout in batch]
        model.train(was_training)
        return sum(right) / len(right)

    def callback(self) -> TrainerCallback:
        """A trainer callback that measures, logs and stops."""
        from transformers import TrainerCallback

        measurement = self

        class Measure(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.global_step % measurement.options.every:
                    return
                rate = measurement.pass_rate(model)
                measurement.history.append({"step": state.global_step, "pass_rate": rate})
                measurement.log(f"step {state.global_step:,}: pass rate {rate:.1%}")
                if rate >= measurement.options.pass_rate:
                    control.should_training_stop = True

        return Measure()
