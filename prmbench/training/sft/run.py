"""Supervised fine-tuning on TRL's SFTTrainer, on ids tokenized as they are at evaluation (DESIGN 4.1)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prmbench.data.problems import Problem, load_problems
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder, ids_hash
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.loading import LoadOptions, checkpoint_hash, load_causal_lm, load_tokenizer, locate
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import prompt_ids, sample
from prmbench.quiet import quiet_libraries
from prmbench.results.store import write_atomically
from prmbench.training.data.chats import encode_chat, load_chats
from prmbench.training.recipes.optimisation import Optimisation, trainer_arguments
from prmbench.training.run_folder import claim, last_state, refuse_own_folder
from prmbench.verify import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback


class StopOptions(BaseModel):
    """Stop when the policy's measured pass rate is reached."""

    model_config = ConfigDict(extra="forbid")

    pass_rate: float = Field(gt=0, le=1, description="stop at or above this share of right completions, temperature 1")
    problems: str = Field(description="file of problems to measure on; not those that are trained on")
    every: int = Field(50, ge=1, description="steps between two measurements")
    n: int = Field(200, ge=1, description="problems of a measurement, one completion each")
    max_new_tokens: int = Field(512, ge=1, description="of a completion")
    prompt: str = Field("bare", description="prompt template, by name")


class SFTRecipe(Optimisation):
    """A supervised fine-tuning run."""

    data: str = Field(description="chats: a file of {messages} records")
    held_out: int = Field(0, ge=0, description="records kept back from the end of the data; their loss is logged")
    stop: StopOptions | None = Field(None, description="null: the whole schedule is run")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )


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
    from datasets import Dataset
    from transformers import PrinterCallback

    try:
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError:
        raise UserError("training needs TRL, which is not installed: pip install 'prmbench[train]'") from None

    from prmbench.training.model.progress import progress_callback

    quiet_libraries()
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
    refuse_own_folder(recipe, folder)
    claim(states, recipe, {"start": checkpoint_hash(folder), "tokens": ids_hash(ids for ids, _ in short)})
    updates = recipe.updates(len(kept))
    config = SFTConfig(
        **trainer_arguments(recipe, states, updates),
        max_length=None,
        completion_only_loss=True,
        logging_steps=max(1, updates // 50),
        eval_strategy="epoch" if held else "no",
    )
    measure = _Measurement(recipe.stop, encoder, recipe.seed, log) if recipe.stop else None
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=heldout if held else None,
        processing_class=tokenizer,
        peft_config=recipe.lora.config() if recipe.lora else None,
        # How long a run with a stopping rule takes is not known beforehand.
        callbacks=[measure.callback() if measure else progress_callback(log)],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        before = [{"step": 0, **trainer.evaluate()}] if held else []  # train() starts a new log
        last = last_state(states)
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
