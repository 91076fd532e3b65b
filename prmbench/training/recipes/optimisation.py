"""What all recipes share: the optimisation, the adapter, the state that a killed run goes on from."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.engines.loading import DTYPES, max_positions
from prmbench.errors import UserError
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.shapes import Backbone, Expected

if TYPE_CHECKING:
    pass

SCHEDULES = ("cosine", "linear", "constant")


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


def longest_sequence(recipe: Optimisation, folder: Path) -> int:
    """Tokens that a prompt and a response may have together: the recipe's limit, or the model's positions where they are fewer."""
    positions = max_positions(folder)
    return recipe.max_length if positions is None else min(recipe.max_length, positions)
