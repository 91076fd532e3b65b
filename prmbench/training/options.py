"""What all recipes share: the optimisation, the adapter, the state that a killed run goes on from."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.engines.loading import DTYPES, max_positions
from prmbench.engines.processes import Share
from prmbench.errors import UserError, first_line
from prmbench.results.store import FolderLock, write_atomically

if TYPE_CHECKING:
    from peft import LoraConfig

SCHEDULES = ("cosine", "linear", "constant")


class LoraOptions(BaseModel):
    """A low-rank adapter instead of all weights."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(128, ge=1, description="rank")
    alpha: int = Field(128, ge=1, description="scaling factor")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout")
    targets: str | list[str] = Field("all-linear", description="modules")
    merge: bool = Field(True, description="save the merged weights, so that the result is an ordinary checkpoint")

    def config(self, save_whole: list[str] | None = None) -> LoraConfig:
        """PEFT's configuration. save_whole: modules that are trained in full beside the adapter."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            exclude_modules=save_whole,
            modules_to_save=save_whole,
            task_type="CAUSAL_LM",
        )


def add_adapter(model: Any, lora: LoraOptions, save_whole: list[str] | None = None) -> Any:
    """The model with an adapter in place. Raises UserError where its targets are not there."""
    from peft import get_peft_model

    try:
        return get_peft_model(model, lora.config(save_whole))
    except ValueError as error:
        raise UserError(f"lora.targets {lora.targets}: {first_line(error)}") from None


class Backbone(BaseModel):
    """Shapes of a backbone, so that a dry run needs no checkpoint."""

    model_config = ConfigDict(extra="forbid")

    layers: int = Field(ge=1, description="transformer blocks")
    width: int = Field(ge=1, description="hidden size")
    heads: int = Field(ge=1, description="query heads")
    kv_heads: int = Field(ge=1, description="key and value heads")
    head_dim: int = Field(ge=1, description="width of a head")
    intermediate: int = Field(ge=1, description="width of the gated feed-forward layer")
    vocabulary: int = Field(ge=1, description="rows of the embedding")
    tied: bool = Field(description="whether the output layer is the embedding")
    qk_norm: bool = Field(False, description="whether queries and keys are normalised (Qwen3)")


class Expected(BaseModel):
    """What the data are expected to be, for a dry run without them."""

    model_config = ConfigDict(extra="forbid")

    records: int = Field(ge=1, description="units trained on: chats, or pairs")
    tokens: int = Field(ge=1, description="tokens of one sequence on average, prompt included")


class Optimisation(BaseModel):
    """Fields of every training recipe."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="checkpoint to start from: folder or Hub id")
    output: str = Field(description="folder of the checkpoint that is written")
    max_length: int = Field(3072, ge=8, description="longer records are left out and counted")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after this many updates; over epochs")
    batch_size: int = Field(64, ge=1, description="records (of a reward model: pairs) of an update, over all processes")
    micro_batch_size: int = Field(8, ge=1, description="records (pairs) of one forward pass on one device")
    learning_rate: float = Field(5e-5, gt=0, allow_inf_nan=False, description="peak learning rate of AdamW")
    schedule: str = Field("cosine", description="learning-rate schedule: cosine, linear, constant")
    warmup_ratio: float = Field(0.01, ge=0, lt=1, description="share of the updates spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    dtype: str = Field("float32", description="of the weights that are trained; a torch name, or auto")
    bf16: bool | None = Field(None, description="compute in bfloat16 by autocast; null: on CUDA only")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    lora: LoraOptions | None = Field(None, description="null: all weights are trained")
    backbone: Backbone | None = Field(None, description="shapes of the model, for --dry-run without a checkpoint")
    expected: Expected | None = Field(None, description="size of the data, for --dry-run without them")
    save_every: int = Field(500, ge=1, description="steps between two saved states; a killed run goes on from the last")
    seed: int = Field(0, ge=0, description="of data order and dropout")

    @model_validator(mode="after")
    def _batches_fit(self) -> Optimisation:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        return self

    @model_validator(mode="after")
    def _names_known(self) -> Optimisation:
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype '{self.dtype}': expected auto, {', '.join(DTYPES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule '{self.schedule}': expected {', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}")
        return self

    def updates(self, records: int) -> int:
        """Updates that a run over this many records makes."""
        return self.max_steps or max(1, math.ceil(self.epochs * records / self.batch_size))

    def autocasts(self) -> bool:
        """Whether the forward pass computes in bfloat16."""
        import torch

        return torch.cuda.is_available() if self.bf16 is None else self.bf16


def trainer_arguments(recipe: Optimisation, states: Path, updates: int) -> dict[str, Any]:
    """Arguments of a transformers Trainer for recipes whose batch_size counts records.

    Raises:
        UserError: batch_size does not divide among the processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.batch_size % (recipe.micro_batch_size * processes):
        raise UserError(
            f"batch_size {recipe.batch_size} is no multiple of micro_batch_size {recipe.micro_batch_size} x {processes} processes"
        )
    return {
        **shared_arguments(recipe, states, updates),
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "per_device_train_batch_size": recipe.micro_batch_size,
        "per_device_eval_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch_size // (recipe.micro_batch_size * processes),
        "save_steps": recipe.save_every,
    }


def shared_arguments(recipe: Optimisation, states: Path, updates: int) -> dict[str, Any]:
    """Arguments of a transformers Trainer that are the same for every recipe."""
    import torch

    return {
        "output_dir": str(states),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": round(recipe.warmup_ratio * updates),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "bf16": recipe.autocasts(),
        "save_strategy": "steps",
        "save_total_limit": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "seed": recipe.seed,
        "use_cpu": not torch.cuda.is_available(),
    }


def quiet_libraries() -> None:
    """Turn off the libraries' own bars, chatter and telemetry (TRL reports every trainer it makes)."""
    from datasets import disable_progress_bars
    from huggingface_hub import constants
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    constants.HF_HUB_DISABLE_TELEMETRY = True


def longest_sequence(recipe: Optimisation, folder: Path) -> int:
    """Tokens that a prompt and a response may have together: the recipe's limit, or the model's positions where they are fewer."""
    positions = max_positions(folder)
    return recipe.max_length if positions is None else min(recipe.max_length, positions)


def refuse_own_folder(recipe: Optimisation, *sources: Path) -> None:
    """Raise UserError when the output would overwrite a checkpoint that the run reads."""
    output = Path(recipe.output).resolve()
    for source in sources:
        if source.resolve() in (output, output / "last"):
            raise UserError(f"output {recipe.output}: holds {source}, which this run starts from; set another output")


def claim(states: Path, recipe: Optimisation, hashes: dict[str, str]) -> None:
    """Make the folder of saved states this run's.

    Args:
        hashes: of what the recipe only names: data, weights.

    Raises:
        UserError: it holds a saved state of a run of another recipe, other data or other weights.
    """
    mark = states / "recipe.json"
    wanted = json.dumps({"recipe": recipe.model_dump(), "hashes": hashes}, indent=2)
    if mark.exists() and mark.read_text(encoding="utf-8") != wanted:
        if last_state(states) is not None:
            raise UserError(
                f"{states}: holds the state of a run of another recipe, other data or other weights; delete it, or set "
                "another output"
            )
        shutil.rmtree(states)  # that run saved nothing to go on from
    states.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, wanted)


@contextmanager
def hold_output(recipe: Optimisation, share: Share) -> Iterator[None]:
    """Keep a run's output folder to this run: made where it is not there, held by the first process.

    Raises:
        UserError: another run writes there, or it cannot be written.
    """
    output = Path(recipe.output)
    lock = FolderLock(output, "set another output")
    if share.main:
        try:
            output.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise UserError(f"output {output}: cannot be written ({error.strerror}); set another output") from None
    try:
        yield
    finally:
        lock.release()
        if share.main and output.is_dir() and {path.name for path in output.iterdir()} <= {".lock"}:
            shutil.rmtree(output)  # a start that failed leaves nothing


def last_state(states: Path) -> str | None:
    """The last state saved whole: the trainer writes its own record last, so a kill while saving leaves none."""
    whole = [path.parent for path in states.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None
