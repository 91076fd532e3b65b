"""Supervised fine-tuning on TRL's SFTTrainer, on ids tokenized as they are at evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.processes import Share, current_share
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.quiet import quiet_libraries
from prmbench.results.store import write_atomically
from prmbench.training.model.export import export_weights
from prmbench.training.recipes.lora import add_adapter
from prmbench.training.recipes.optimisation import trainer_arguments
from prmbench.training.run_folder import hold_output, open_states, refuse_own_folder
from prmbench.training.sft.recipe import Encoded, SFTRecipe
from prmbench.verify import Verifier

if TYPE_CHECKING:
    from datasets import Dataset

REPORT_NAME = "sft.json"


@dataclass(frozen=True)
class SFTResult:
    """What a run did.

    Attributes:
        output: Folder of the checkpoint.
        steps: Number of updates.
        n_records: Number of records trained on.
        n_overlong: Number of records that were too long and are left out.
        pass_rate: The last measured pass rate; None where none was measured.
        history: The trainer's log and the measured pass rates, each with its step.
    """

    output: Path
    steps: int
    n_records: int
    n_overlong: int
    pass_rate: float | None
    history: list[dict[str, Any]]


def train_sft(recipe: SFTRecipe, *, log: Callable[[str], None] = lambda _: None) -> SFTResult | None:
    """Run a recipe. Writes the checkpoint, its tokenizer and ``sft.json`` (recipe and history).

    Every ``save_every`` steps the whole state is kept in ``output/trainer``; the same call goes on from there after a kill.

    Args:
        recipe: The recipe.
        log: Called with a line for every measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: A model or a data file is wrong, or no record is short enough.
    """
    quiet_libraries()
    share = current_share()
    with hold_output(recipe, share), Verifier() as verifier:
        return _train(recipe, share, verifier, log if share.main else lambda _: None)


def _train(recipe: SFTRecipe, share: Share, verifier: Verifier, log: Callable[[str], None]) -> SFTResult | None:
    try:
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError:
        raise UserError("training needs TRL, which is not installed: pip install 'prmbench[train]'") from None
    from prmbench.training.model.progress import progress_callback
    from prmbench.training.model.trainer import QuietTrainer
    from prmbench.training.sft.stopping import StopAtPassRate

    class Finetuner(QuietTrainer, SFTTrainer):
        """TRL's trainer."""

    # Data and model.
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "recipe.model")
    refuse_own_folder(recipe, folder)
    tokenizer = load_tokenizer(folder, options)
    encoder = TraceEncoder(tokenizer, recipe.tokens)
    data = recipe.load(encoder)
    stopping = StopAtPassRate(recipe.stop, encoder, verifier, recipe.seed, log) if recipe.stop else None
    model = load_causal_lm(folder, options).train()
    if recipe.lora is not None:
        model = add_adapter(model, recipe.lora)

    # The state that a killed run left.
    output, states = Path(recipe.output), Path(recipe.output) / "trainer"
    hashes = {"start": checkpoint_hash(folder), "tokens": ids_hash(ids for ids, _ in [*data.kept, *data.held])}
    last = open_states(states, recipe, hashes, share, log)

    # Training.
    trainer = Finetuner(
        model=model,
        args=SFTConfig(
            **trainer_arguments(recipe, states, recipe.updates(len(data.kept))),
            max_length=None,
            completion_only_loss=True,
            eval_strategy="epoch" if data.held else "no",
            eval_on_start=bool(data.held) and last is None,
        ),
        train_dataset=_dataset(data.kept),
        eval_dataset=_dataset(data.held) if data.held else None,
        processing_class=tokenizer,
        # How long a run with a stopping rule takes is not known beforehand.
        callbacks=[stopping or progress_callback(log)] if share.main or stopping else [],
    )
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(states / "last"))
    share.wait()
    if not share.main:
        return None

    # The checkpoint and its report.
    merges = recipe.lora is not None and recipe.lora.merge
    export_weights(states / "last", output, (lambda: load_causal_lm(folder, options)) if merges else None, tokenizer)
    measured = stopping.history if stopping else []
    pass_rate = measured[-1]["pass_rate"] if measured else None
    history, steps = [*trainer.state.log_history, *measured], trainer.state.global_step
    report = {"recipe": recipe.model_dump(), "steps": steps, "pass_rate": pass_rate, "history": history}
    write_atomically(output / REPORT_NAME, json.dumps(report, indent=2) + "\n")
    shutil.rmtree(states, ignore_errors=True)
    return SFTResult(output, steps, len(data.kept), data.n_overlong, pass_rate, history)


def _dataset(records: Sequence[Encoded]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in records],
            "completion_mask": [[0] * p + [1] * (len(ids) - p) for ids, p in records],
        }
    )
