"""Supervised fine-tuning on TRL's SFTTrainer, on ids tokenized as they are at evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.records import read_json
from prmbench.data.tokens import ids_hash
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.processes import current_share
from prmbench.errors import UserError
from prmbench.policies.prompt_record import prompt_differences
from prmbench.quiet import quiet_libraries
from prmbench.resources import install_command
from prmbench.training.model.exporter import Exporter
from prmbench.training.model.start import load_start
from prmbench.training.recipes.lora import add_adapter
from prmbench.training.recipes.optimisation import trainer_arguments
from prmbench.training.run_folder import TrainingRun, hold_output, refuse_own_folder
from prmbench.training.sft.recipe import Encoded, SFTData, SFTRecipe
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
        n_overlong: Number of records that were too long, and are cut or left out.
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
    """Run a recipe.

    Writes the checkpoint, its tokenizer, ``sft.json`` (recipe and history) and ``prompts.json`` (how problems are put in the data,
    which later stages compare).

    Every ``save_every`` steps the whole state is kept in ``output/trainer``; the same call goes on from there after a kill. The
    same call after the end does nothing.

    Args:
        recipe: The recipe.
        log: Called with a line for every measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: A model or a data file is wrong, or no record is short enough; or a number of the training is none.
    """
    quiet_libraries()
    share = current_share()
    with hold_output(recipe, share), Verifier() as verifier:
        # Check everything that can be checked before a model loads.
        folder = locate(recipe.model, "recipe.model")
        refuse_own_folder(recipe, folder)
        encoder = recipe.encoder(folder)
        data = recipe.load(encoder)
        log = log if share.main else lambda _: None
        for remark in (*data.remarks, *prompt_differences(folder, data.prompts)):
            log(remark)
        ids = ids_hash(ids for ids, _ in [*data.kept, *data.held])
        hashes = {"start": checkpoint_hash(folder), "tokens": ids}
        run = TrainingRun(recipe, folder, encoder, hashes, share, log)

        report = run.report(REPORT_NAME, "result", functools.partial(_train, run, data, verifier))
    if report is None:
        return None
    return SFTResult(
        output=run.output,
        steps=report["steps"],
        n_records=len(data.kept),
        n_overlong=data.n_overlong,
        pass_rate=report["pass_rate"],
        history=report["history"],
    )


def _train(run: TrainingRun[SFTRecipe], data: SFTData, verifier: Verifier, last: str | None) -> dict[str, Any]:
    """Train and write the checkpoint. Returns what is to be reported."""
    try:
        from trl import SFTConfig, SFTTrainer
    except ModuleNotFoundError:
        raise UserError(f"training needs TRL, which is not installed: {install_command('train')}") from None
    from prmbench.training.model.trainer import GuardedTrainer
    from prmbench.training.sft.stopping import StopAtPassRate, last_pass_rate
    from prmbench.training.watch.callbacks import watch

    class Finetuner(GuardedTrainer, SFTTrainer):
        """TRL's trainer."""

    bound_tiles()
    # Make the trainer. A stopping rule measures before figures are shown, and leaves the number of steps open.
    recipe, tokenizer = run.recipe, run.encoder.tokenizer
    callbacks = watch(run, "training" if recipe.stop is None else "training, at most")
    if recipe.stop is not None:
        callbacks.insert(0, StopAtPassRate(recipe.stop, run.encoder, verifier, recipe.seed, run.log))
    model = load_start(recipe, run.folder).train()
    trainer = Finetuner(
        model=add_adapter(model, recipe.lora) if recipe.lora is not None else model,
        args=SFTConfig(
            **trainer_arguments(recipe, run.states, recipe.updates(len(data.kept))),
            max_length=None,
            completion_only_loss=True,
            padding_free=recipe.padding_free,
            eval_strategy="epoch" if data.held else "no",
            eval_on_start=bool(data.held) and last is None,
        ),
        train_dataset=_dataset(data.kept),
        eval_dataset=_dataset(data.held) if data.held else None,
        processing_class=tokenizer,
        callbacks=callbacks,
    )

    # Train, and write the checkpoint.
    exporter = Exporter(
        run.folder, functools.partial(load_start, recipe, train=False), tokenizer, recipe.merges, recipe.coarse
    )
    if last is None:
        trainer.rehearse(run.states / "rehearsal", exporter.write)
    else:  # TRL's count of tokens begins at 0 in every process
        before = read_json(Path(last) / "trainer_state.json")["log_history"]
        trainer._total_train_tokens = next((row["num_tokens"] for row in reversed(before) if "num_tokens" in row), 0)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(run.states / "last"))
    run.share.wait()
    if run.share.main:
        exporter.write(run.states / "last", run.output)
        data.prompts.write(run.output)
    history = trainer.state.log_history
    return {"steps": trainer.state.global_step, "pass_rate": last_pass_rate(history), "history": history}


def bound_tiles() -> None:
    """Have TRL hold no more logits at once than the other trainings do. Its own tiles have eight times as many."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    from prmbench.engines.hf.head import HEAD_BLOCK

    chunked_logprob.TOKEN_CHUNK_SIZE = HEAD_BLOCK // utils._CHUNKED_LOGPROB_CHUNK_SIZE


def _dataset(records: Sequence[Encoded]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in records],
            "completion_mask": [[0] * p + [1] * (len(ids) - p) for ids, p in records],
        }
    )
