"""Reward-model training: a recipe in, a checkpoint with its card out, ready for ``prmbench eval --rm``."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.loading import (
    LoadOptions,
    checkpoint_hash,
    load_causal_lm,
    load_tokenizer,
    locate,
)
from prmbench.engines.processes import Share, current_share
from prmbench.errors import UserError
from prmbench.quiet import quiet_libraries
from prmbench.reward_models.card import Card, write_card
from prmbench.training.data.pairs import Pairs
from prmbench.training.model.export import export_weights
from prmbench.training.recipes.lora import LoraOptions, add_adapter
from prmbench.training.recipes.optimisation import trainer_arguments
from prmbench.training.rm.recipe import RMData, RMRecipe
from prmbench.training.run_folder import TrainingRun, hold_output, refuse_own_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.training.rm.trainer import RewardModelTrainer

REPORT_NAME = "rm.json"


@dataclass(frozen=True)
class RMResult:
    """What a run did.

    Attributes:
        output: Folder of the checkpoint.
        steps: Number of updates.
        best_step: Step whose weights are in `output`.
        data: What the data file held.
        n_held_out: Number of pairs kept back.
        metrics: Held-out metrics of the weights in `output`; empty without a held-out split.
        history: The trainer's log.
    """

    output: Path
    steps: int
    best_step: int
    data: Pairs
    n_held_out: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Run(TrainingRun[RMRecipe]):
    """What every stage of a run needs.

    Attributes:
        reference: Checkpoint of pi_ref.
        data: The pairs.
    """

    reference: Path
    data: RMData


def train_rm(recipe: RMRecipe, *, log: Callable[[str], None] = lambda _: None) -> RMResult | None:
    """Run a recipe.

    Writes the best weights (by held-out loss; without a held-out split, the last) with tokenizer, card and ``rm.json`` into
    ``output``, and the last ones into ``output/last``. Every ``save_every`` steps the whole state is kept in ``output/trainer``;
    the same call goes on from there after a kill. The same call after the end does nothing.

    Args:
        recipe: The recipe.
        log: Called with a line for every stage and measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: A model, a data file or a setting is wrong, and nothing has been trained; or the loss is no number.
    """
    quiet_libraries()
    share = current_share()
    with hold_output(recipe, share):
        run = _prepare(recipe, share, log if share.main else lambda _: None)
        report = run.report(REPORT_NAME, "best", functools.partial(_train, run))
    if report is None:
        return None
    return RMResult(
        output=run.output,
        steps=report["steps"],
        best_step=report["best_step"],
        data=run.data.found,
        n_held_out=len(run.data.held),
        metrics=report["metrics"],
        history=report["history"],
    )


def _prepare(recipe: RMRecipe, share: Share, log: Callable[[str], None]) -> _Run:
    """Check everything that can be checked before a model loads."""
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "model")
    reference = folder if recipe.reference is None else locate(recipe.reference, "reference")
    refuse_own_folder(recipe, folder, reference)
    encoder = TraceEncoder(load_tokenizer(folder, options), recipe.tokens)
    data = recipe.load(encoder, folder)
    counts = f"{data.found.sentence()}; {len(data.held):,} held out"
    if len(data.kept) < recipe.batch_size:
        raise UserError(
            f"{recipe.data}: {len(data.kept):,} pairs are left to train on, an update takes batch_size {recipe.batch_size}: "
            f"lower it or held_out ({counts})"
        )
    log(counts)
    start = checkpoint_hash(folder)
    hashes = {
        "start": start,
        "reference": start if reference == folder else checkpoint_hash(reference),
        "tokens": ids_hash(response.ids for pair in data.found.pairs for response in pair.rows),
    }
    return _Run(recipe, folder, options, encoder, hashes, share, log, reference, data)


def _train(run: _Run, last: str | None) -> dict[str, Any]:
    """Train, and measure once more where the schedule made no last measurement. Returns what is to be reported."""
    trainer = _make_trainer(run, fresh=last is None)
    trainer.train(resume_from_checkpoint=last)
    state = trainer.state
    if run.data.held and not any("eval_loss" in row and row["step"] == state.global_step for row in state.log_history):
        trainer.evaluate()
    trainer.save_model(str(run.states / "last"))
    run.share.wait()
    return _finish(run, trainer) if run.share.main else {}


def _make_trainer(run: _Run, *, fresh: bool) -> RewardModelTrainer:
    import torch
    from transformers import TrainingArguments

    from prmbench.engines.hf.engine import HFEngine
    from prmbench.training.model.progress import progress_callback
    from prmbench.training.rm.reference import reference_logprobs
    from prmbench.training.rm.trainer import PairData, RewardModelTrainer

    recipe, kept, held = run.recipe, run.data.kept, run.data.held

    # The reference: log-probs computed beforehand, an engine for every batch, or the model without its adapter.
    cached, engine = None, None
    adapter_is_ratio = recipe.lora is not None and run.reference == run.folder
    if recipe.meaning.kind == "implicit" and not (adapter_is_ratio and recipe.reference_logprobs == "as-needed"):
        engine = HFEngine(load_causal_lm(run.reference, run.options), str(run.reference))
    if engine is not None and recipe.reference_logprobs == "cached":
        device, _ = engine.device_and_dtype()
        cached = reference_logprobs(
            engine,
            run.hashes["reference"],
            [response for pair in [*kept, *held] for response in pair.rows],
            run.states,
            autocast=torch.autocast(device.partition(":")[0], torch.bfloat16) if recipe.autocasts() else nullcontext(),
            batch_tokens=default_batch_tokens(device),
            share=run.share,
        )
        engine = None  # its memory is free again

    # The trainer.
    updates, cut = recipe.updates(len(kept)), 2 * len(kept)
    return RewardModelTrainer(
        recipe,
        held_out=PairData(held, cached[cut:] if cached is not None else None),
        reference=engine,
        model=_prepare_model(run, recipe.lora),
        processing_class=run.encoder.tokenizer,
        train_dataset=PairData(kept, cached[:cut] if cached is not None else None),
        eval_dataset=[] if held else None,
        callbacks=[progress_callback(run.log)] if run.share.main else [],
        args=TrainingArguments(
            **trainer_arguments(recipe, run.states, updates),
            remove_unused_columns=False,
            dataloader_drop_last=True,
            eval_strategy="steps" if held else "no",
            eval_steps=recipe.evaluate_every or max(1, updates // 10),
            eval_on_start=bool(held) and fresh,
            ddp_find_unused_parameters=False,
        ),
    )


def _prepare_model(run: _Run, lora: LoraOptions | None) -> PreTrainedModel:
    """The model to train: its forward gives token values, and an adapter is in place where there is to be one.

    Raises:
        UserError: The adapter changes the output layer, whose log-probs are computed outside it.
    """
    from prmbench.reward_models.q_rm import VALUE_HEAD
    from prmbench.training.model.forward import give_logprobs, give_values

    recipe, has_head = run.recipe, run.recipe.meaning.kind == "q_rm"
    model = load_causal_lm(run.folder, run.options)
    if has_head:
        give_values(model, recipe.read_state, recipe.seed)
    else:
        give_logprobs(model, recipe.model)
    if lora is not None:
        from transformers import set_seed

        set_seed(recipe.seed)  # of the adapter's first weights
        head = model.get_output_embeddings()
        model = add_adapter(model, lora, [VALUE_HEAD] if has_head else None)
        if model.get_base_model().get_output_embeddings() is not head:
            raise UserError("lora.targets: the output layer cannot carry an adapter here; leave it out")
    return model.train()


def _finish(run: _Run, trainer: RewardModelTrainer) -> dict[str, Any]:
    """Write the best and the last weights as checkpoints. Returns what is to be reported."""
    from prmbench.training.rm.trainer import BEST_NAME

    recipe, data, history = run.recipe, run.data, trainer.state.log_history
    steps, last, best = trainer.state.global_step, run.states / "last", run.states / "best"
    best_step = json.loads((best / BEST_NAME).read_text(encoding="utf-8"))["step"] if best.exists() else steps
    _export(run, best if best.exists() else last, run.output)
    _export(run, last, run.output / "last")
    at_best: dict[str, Any] = next(
        (row for row in reversed(history) if row["step"] == best_step and "eval_loss" in row), {}
    )
    return {
        "hashes": {"last": checkpoint_hash(run.output / "last")},
        "beta": recipe.scale,
        "margin": recipe.offset,
        "data": {**vars(data.found), "pairs": len(data.found.pairs)},
        "trained_pairs": len(data.kept),
        "held_out_pairs": len(data.held),
        "steps": steps,
        "best_step": best_step,
        "metrics": {name.removeprefix("eval_"): x for name, x in at_best.items() if name.startswith("eval_")},
        "history": history,
    }


def _export(run: _Run, saved: Path, output: Path) -> None:
    """Make what the trainer saved a checkpoint with a card."""
    recipe = run.recipe
    reference: str | None = None
    if recipe.meaning.kind == "implicit":
        reference = recipe.reference or recipe.model
        if Path(reference).is_dir():
            reference = os.path.relpath(Path(reference).resolve(), output.resolve())
    merges = recipe.lora is not None and recipe.lora.merge
    merge_into = (lambda: _prepare_model(run, None)) if merges else None
    export_weights(saved, output, merge_into, run.encoder.tokenizer, base=reference)
    card = Card(
        kind=recipe.meaning.kind,
        objective=recipe.objective,
        beta=recipe.scale,
        margin=recipe.offset,
        read_state=recipe.read_state,
        reference=reference,
        tokens=recipe.tokens,
    )
    write_card(output, card)
