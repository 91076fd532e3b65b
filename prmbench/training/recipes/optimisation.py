"""What all recipes share: the optimisation, the adapter, the state that a killed run goes on from."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.data.revisions import with_revision
from prmbench.engines.attention import is_masked, unknown_attention
from prmbench.engines.checkpoint import max_positions, model_folder
from prmbench.engines.load import DTYPES, LoadOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError, nearest
from prmbench.training.model.launch import launch_divides
from prmbench.training.recipes.chat_templates import find_template, shipped_templates
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.recipes.shapes import Backbone, Expected

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from prmbench.training.plan import TrainingPlan

SCHEDULES = ("cosine", "linear", "constant")
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow", "neptune", "swanlab", "tensorboard",
    "trackio", "wandb",
)  # fmt: skip
"""Experiment trackers, as transformers names them."""
WATCHING = ("report_to", "samples_every")
"""Keys that say how a run is watched. They change nothing of its result, so that a run goes on where they differ."""


def name_revisions(fields: Any, keys: Mapping[str, str]) -> Any:
    """Put revisions that a recipe gives as keys of their own behind the names that they are of.

    Args:
        fields: The fields of a recipe, or of a part of one.
        keys: For each key of a revision, the key of the model that it is of.

    Returns:
        The fields, without these keys.

    Raises:
        ValueError: A revision of a model that is not named, lies here, or names one already.
    """
    if not isinstance(fields, dict):
        return fields
    found = dict(fields)
    for key, of in keys.items():
        if (revision := found.pop(key, None)) is None:
            continue
        if not isinstance(found.get(of), str) or found[of] in ("old", "start"):
            raise ValueError(f"{key} {revision}: goes with '{of}', a Hub id; leave it out")
        try:
            found[of] = with_revision(found[of], str(revision), of, argument=key)
        except UserError as error:
            raise ValueError(f"{key} {revision}: {str(error).partition(': ')[2]}") from None
    return found


class Optimisation(BaseModel):
    """Fields of every training recipe."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="checkpoint to start from: a folder or a Hub id, which may end in @REVISION")
    revision: str | None = Field(
        None,
        description="commit, branch or tag of the model's Hub id; the same as model: OWNER/NAME@REVISION, which it becomes",
    )
    output: str = Field(description="folder that the trained checkpoint is written into")
    max_length: int = Field(3072, ge=8, description="longer records are left out and counted")
    epochs: float = Field(1.0, gt=0, le=1e6, description="passes over the data")
    max_steps: int | None = Field(
        None,
        ge=1,
        description="number of steps, each of which takes batch_size records; goes over epochs where it is given",
    )
    batch_size: int = Field(64, ge=1, description="records (of a reward model: pairs) of an update, over all processes")
    micro_batch_size: int = Field(8, ge=1, description="records (pairs) of one forward pass on one device")
    learning_rate: float = Field(5e-5, gt=0, allow_inf_nan=False, description="peak learning rate of AdamW")
    schedule: str = Field("cosine", description="learning-rate schedule: cosine, linear or constant")
    warmup_ratio: float = Field(0.01, ge=0, lt=1, description="share of the updates spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which gradients are clipped")
    dtype: str = Field("float32", description="type of the weights that are trained: a torch name, or auto")
    bf16: bool | None = Field(None, description="compute in bfloat16 by autocast; null: on CUDA only")
    gradient_checkpointing: bool = Field(False, description="save memory by computing the layers twice")
    attn_implementation: str | None = Field(
        None,
        description="how attention is computed: eager, sdpa, flex_attention, flash_attention_2, flash_attention_3, or the id of a "
        "kernel; null: as transformers has it, mostly sdpa",
    )
    padding_free: bool = Field(
        False, description="join the sequences of a micro-batch into one row without padding; for flash attention"
    )
    liger: bool = Field(False, description="compute norms and feed-forward layers by Liger's kernels; on CUDA only")
    lora: LoraOptions | None = Field(None, description="adapter to train; null: all weights are trained")
    chat_template: str | None = Field(
        None,
        description="chat template, saved with the model: a Jinja file, the name of one that the tokenizer has, or of one that "
        "ships; null: the tokenizer's own",
    )
    backbone: Backbone | None = Field(None, description="shapes of the model, for a dry run without a checkpoint")
    expected: Expected | None = Field(None, description="size of the data, for a dry run without them")
    save_every: int = Field(500, ge=1, description="steps between two saved states; a killed run goes on from the last")
    seed: int = Field(0, ge=0, lt=1 << 32, description="seed of data order and dropout")
    report_to: str | list[str] = Field(
        "none", description="trackers that figures are sent to (trackio, tensorboard, wandb and others), or none"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_revision(cls, fields: Any) -> Any:
        """Put the revision behind the name of the model."""
        return name_revisions(fields, {"revision": "model"})

    @model_validator(mode="after")
    def _batches_fit(self) -> Optimisation:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        return self

    @model_validator(mode="after")
    def _names_known(self) -> Optimisation:
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype '{self.dtype}': expected auto, {', '.join(DTYPES)}")
        attention = self.attn_implementation
        if attention is not None and (problem := unknown_attention(attention)) is not None:
            raise ValueError(f"attn_implementation '{attention}': {problem}")
        if not is_masked(attention) and self.bf16 is False and self.dtype in ("auto", "float32"):
            raise ValueError(
                f"attn_implementation {attention}: reads half precision alone; leave bf16 out, or use sdpa"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule '{self.schedule}': expected {', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}")
        for name in self.trackers:
            if name not in TRACKERS:
                raise ValueError(
                    f"report_to '{name}'{nearest(name, TRACKERS)}: expected none, or of {', '.join(TRACKERS)}"
                )
        return self

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of the trackers that figures are sent to."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return tuple(dict.fromkeys(name for name in names if name != "none"))

    @property
    def updates_of_step(self) -> int:
        """Updates of a step. A step takes ``batch_size`` records; epochs, max_steps and save_every count steps."""
        return 1

    def decisive(self) -> dict[str, Any]:
        """Return the keys and values that decide what comes out: all but those that say how the run is watched."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in WATCHING}

    @property
    def folder(self) -> Path:
        """The checkpoint to start from, where it is a local folder."""
        return Path(self.model).expanduser()

    @property
    def load_options(self) -> LoadOptions:
        """How the models of the training are loaded, and how they compute.

        Weights that are all trained are float32 unless the recipe names another type.
        """
        return dataclasses.replace(
            self.scoring_options,
            attn_implementation=self.attn_implementation,
            padding_free=self.padding_free,
            liger=self.liger,
        )

    @property
    def scoring_options(self) -> LoadOptions:
        """How a model is loaded that the commands of evaluation would load too; these know nothing of the training."""
        return LoadOptions(dtype="float32" if self.dtype == "auto" and self.lora is None else self.dtype)

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerFast:
        """Load the tokenizer of a run, which carries the chat template of the recipe.

        Args:
            folder: The checkpoint to start from.

        Raises:
            UserError: There is no tokenizer, or no chat template of that name, or none at all.
        """
        found = load_tokenizer(folder, self.load_options)
        if self.chat_template is not None:
            own = found.chat_template if isinstance(found.chat_template, dict) else None
            found.chat_template = find_template(self.chat_template, own)
        if not found.chat_template:
            raise UserError(
                f"{folder}: the tokenizer has no chat template; set chat_template to a Jinja file, or to one that ships: "
                f"{', '.join(shipped_templates())}"
            )
        return found

    @property
    def merges(self) -> bool:
        """Whether an adapter is trained and merged."""
        return self.lora is not None and self.lora.merge

    def updates(self, records: int) -> int:
        """Return the number of updates of a run.

        Args:
            records: Number of records to train on.
        """
        return self.max_steps or max(1, math.ceil(self.epochs * records / self.batch_size))

    def autocasts(self) -> bool:
        """Return whether the forward pass computes in bfloat16."""
        import torch

        return torch.cuda.is_available() if self.bf16 is None else self.bf16

    @property
    def coarse(self) -> bool:
        """Whether the forward pass computes in half precision."""
        return self.autocasts() or str(self.load_options.resolve_dtype()) != "torch.float32"

    def plan(self) -> TrainingPlan:
        """Plan the run from the recipe alone, or from the checkpoint and the data where they are on this machine.

        Returns:
            The plan.

        Raises:
            UserError: There is neither a ``backbone`` in the recipe nor a local checkpoint, or neither ``expected`` nor a local
                data file.
        """
        raise NotImplementedError

    def shape(self) -> Backbone:
        """Return the shapes of the backbone, from the checkpoint where it is on this machine.

        Raises:
            UserError: Nothing says the shapes, or the recipe's are not those of the checkpoint.
        """
        config_file = model_folder(self.folder) / "config.json"
        if config_file.exists():
            return self.backbone.check(config_file) if self.backbone else Backbone.read(config_file)
        if self.backbone is None:
            raise UserError(
                f"{self.model}: no such folder here, and the recipe has no 'backbone' with its shapes to plan from"
            )
        return self.backbone

    def data_size(self, file: str, lengths: Callable[[], list[int]], rows: int = 1) -> tuple[Expected, str]:
        """Return the size of the data, counted where data and checkpoint are on this machine.

        Args:
            file: The data file.
            lengths: Reads the data and returns the number of tokens of every sequence.
            rows: Number of sequences of one record.

        Returns:
            The size, and in words where it comes from.

        Raises:
            UserError: Nothing says the size, or no record is left.
        """
        if not (Path(file).exists() and self.folder.is_dir()):
            if self.expected is None:
                raise UserError(
                    f"{file}: no such file here, and the recipe has no 'expected' with its size to plan from"
                )
            return self.expected, "expected, by the recipe"
        found = lengths()
        if not found:
            raise UserError(f"{file}: no record is left to train on")
        mean = max(1, round(sum(found) / len(found)))
        return Expected(records=len(found) // rows, tokens=mean), f"counted in {file}"


def trainer_arguments(recipe: Optimisation, states: Path, updates: int) -> dict[str, Any]:
    """Return the arguments of a transformers Trainer for recipes whose ``batch_size`` counts records.

    Args:
        recipe: The recipe.
        states: Folder of saved states.
        updates: Number of updates of the run.

    Raises:
        UserError: ``batch_size`` cannot be divided among the processes.
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
        "logging_steps": max(1, updates // 50),
    }


def shared_arguments(recipe: Optimisation, states: Path, updates: int) -> dict[str, Any]:
    """Return the arguments of a transformers Trainer that are the same for every recipe.

    Args:
        recipe: The recipe.
        states: Folder of saved states.
        updates: Number of updates of the run.
    """
    import torch

    return {
        "output_dir": str(states),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": round(recipe.warmup_ratio * updates),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        checkpointing_argument(): recipe.gradient_checkpointing,
        "bf16": recipe.autocasts(),
        "save_strategy": "steps",
        "save_total_limit": 2,  # a run goes on from the state before the last one where that is damaged
        "logging_nan_inf_filter": False,
        "report_to": [],  # trackers are callbacks of ours, which count steps (prmbench.training.watch)
        "run_name": Path(recipe.output).name,
        "project": "prmbench",
        "disable_tqdm": True,
        "seed": recipe.seed,
        "use_cpu": not torch.cuda.is_available(),
        # Gradients that are summed over micro-batches before they are divided would be whole on every device.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": launch_divides()}},
    }


def checkpointing_argument() -> str:
    """Find what transformers calls the argument that computes layers twice to save memory: it has a new name from 5.24 on."""
    from transformers import TrainingArguments

    new = "activation_checkpointing"
    return new if new in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"


def longest_sequence(recipe: Optimisation, folder: Path) -> int:
    """Return how many tokens a prompt and a response may have together.

    Args:
        recipe: The recipe, whose ``max_length`` is a limit.
        folder: The checkpoint, whose positions are another one.
    """
    positions = max_positions(folder)
    return recipe.max_length if positions is None else min(recipe.max_length, positions)
