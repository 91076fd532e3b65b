"""Reward-model training: a recipe in, a checkpoint with its card out, ready for ``prmbench eval --rm``."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.checkpoint import checkpoint_hash, locate
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.processes import Share, current_share
from prmbench.engines.reference_cache import LogprobCache, open_cache
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.quiet import quiet_libraries
from prmbench.results.provenance import versions
from prmbench.results.store import write_atomically
from prmbench.reward_models.card import Card, write_card
from prmbench.training.data.pairs import Pairs
from prmbench.training.model.export import export_weights
from prmbench.training.recipes.lora import LoraOptions, add_adapter
from prmbench.training.recipes.optimisation import trainer_arguments
from prmbench.training.rm.recipe import RMData, RMRecipe
from prmbench.training.run_folder import hold_output, open_states, refuse_own_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
class _Run:
    """What every stage of a run needs.

    Attributes:
        recipe: The recipe.
        folder: Checkpoint to start from.
        reference: Checkpoint of pi_ref.
        options: How checkpoints are loaded.
        tokenizer: The tokenizer of the checkpoint to start from.
        data: The pairs.
        share: This process among those of the run.
        log: Called with a line for every stage and measurement.
    """

    recipe: RMRecipe
    folder: Path
    reference: Path
    options: LoadOptions
    tokenizer: PreTrainedTokenizerBase
    data: RMData
    share: Share
    log: Callable[[str], None]

    @property
    def states(self) -> Path:
        """Folder of saved states."""
        return Path(self.recipe.output) / "trainer"


def train_rm(recipe: RMRecipe, *, log: Callable[[str], None] = lambda _: None) -> RMResult | None:
    """Run a recipe.

    Writes the best weights (by held-out loss; without a held-out split, the last) with tokenizer, card and ``rm.json`` into
    ``output``, and the last ones into ``output/last``. Every ``save_every`` steps the whole state is kept in ``output/trainer``;
    the same call goes on from there after a kill.

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
        return _train(_prepare(recipe, share, log if share.main else lambda _: None))


def _prepare(recipe: RMRecipe, share: Share, log: Callable[[str], None]) -> _Run:
    """Check everything that can be checked before a model loads."""
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "recipe.model")
    reference = folder if recipe.reference is None else locate(recipe.reference, "recipe.reference")
    refuse_own_folder(recipe, folder, reference)
    tokenizer = load_tokenizer(folder, options)
    data = recipe.load(TraceEncoder(tokenizer, recipe.tokens), folder)
    counts = f"{data.found.sentence()}; {len(data.held):,} held out"
    if len(data.kept) < recipe.batch_size:
        raise UserError(
            f"{recipe.data}: {len(data.kept):,} pairs are left to train on, an update takes batch_size {recipe.batch_size}: "
            f"lower it or held_out ({counts})"
        )
    log(counts)
    return _Run(recipe, folder, reference, options, tokenizer, data, share, log)


def _train(run: _Run) -> RMResult | None:
    # The state that a killed run left.
    start = checkpoint_hash(run.folder)
    hashes = {
        "start": start,
        "reference": start if run.reference == run.folder else checkpoint_hash(run.reference),
        "tokens": ids_hash(response.ids for pair in run.data.found.pairs for response in pair.rows),
    }
    last = open_states(run.states, run.recipe, hashes, run.share, run.log)

    # Training, and a last measurement where the schedule made none.
    trainer = _make_trainer(run, hashes["reference"], fresh=last is None)
    trainer.train(resume_from_checkpoint=last)
    state = trainer.state
    if run.data.held and not any("eval_loss" in row and row["step"] == state.global_step for row in state.log_history):
        trainer.evaluate()
    trainer.save_model(str(run.states / "last"))
    run.share.wait()
    return _finish(run, trainer, hashes) if run.share.main else None


def _make_trainer(run: _Run, reference_hash: str, *, fresh: bool) -> RewardModelTrainer:
    import torch
    from transformers import TrainingArguments

    from prmbench.engines.hf.engine import HFEngine
    from prmbench.reward_models.reference_model import ReferenceModel, reference_identity, reference_logprobs
    from prmbench.training.model.progress import progress_callback
    from prmbench.training.rm.trainer import PairData, RewardModelTrainer

    recipe, kept, held = run.recipe, run.data.kept, run.data.held

    # The reference: log-probs computed beforehand, an engine for every batch, or the model without its adapter.
    cached, engine = None, None
    adapter_is_ratio = recipe.lora is not None and run.reference == run.folder

    def load() -> HFEngine:
        return HFEngine(load_causal_lm(run.reference, run.options), str(run.reference))

    if recipe.meaning.kind == "implicit" and recipe.reference_logprobs == "cached":
        device = run.options.resolve_device().type
        autocast = functools.partial(torch.autocast, device, torch.bfloat16) if recipe.autocasts() else nullcontext
        identity = reference_identity(
            reference_hash, "hf", run.options, autocast="bfloat16" if recipe.autocasts() else None
        )
        store = open_cache() or LogprobCache(run.states / "reference.sqlite", sys.maxsize)
        responses = [response for pair in [*kept, *held] for response in pair.rows]
        found = reference_logprobs(
            ReferenceModel(str(run.reference), load, identity, store, autocast),
            [r.ids for r in responses],
            [r.n_prompt for r in responses],
            batch_tokens=default_batch_tokens(device),
            share=run.share,
        )
        cached = [one.astype(np.float32) for one in found]
    elif recipe.meaning.kind == "implicit" and not adapter_is_ratio:
        engine = load()

    # The trainer.
    updates, cut = recipe.updates(len(kept)), 2 * len(kept)
    return RewardModelTrainer(
        recipe,
        held_out=PairData(held, cached[cut:] if cached is not None else None),
        reference=engine,
        model=_prepare_model(run, recipe.lora),
        processing_class=run.tokenizer,
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


def _finish(run: _Run, trainer: RewardModelTrainer, hashes: dict[str, str]) -> RMResult:
    """Write the checkpoints and the report, and delete the saved states."""
    from prmbench.training.rm.trainer import BEST_NAME

    # Weights: the best ones, and the last ones.
    recipe, data, output = run.recipe, run.data, Path(run.recipe.output)
    steps, history = trainer.state.global_step, trainer.state.log_history
    last, best = run.states / "last", run.states / "best"
    best_step = json.loads((best / BEST_NAME).read_text(encoding="utf-8"))["step"] if best.exists() else steps
    _export(run, best if best.exists() else last, output)
    _export(run, last, output / "last")

    # The report.
    at_best: dict[str, Any] = next(
        (row for row in reversed(history) if row["step"] == best_step and "eval_loss" in row), {}
    )
    metrics = {name.removeprefix("eval_"): value for name, value in at_best.items() if name.startswith("eval_")}
    report = {
        "recipe": recipe.model_dump(),
        "beta": recipe.scale,
        "margin": recipe.offset,
        "data": {**vars(data.found), "pairs": len(data.found.pairs)},
        "trained_pairs": len(data.kept),
        "held_out_pairs": len(data.held),
        "hashes": {**hashes, "best": checkpoint_hash(output), "last": checkpoint_hash(output / "last")},
        "versions": versions(),
        "steps": steps,
        "best_step": best_step,
        "metrics": metrics,
        "history": history,
    }
    write_atomically(output / REPORT_NAME, json.dumps(report, indent=2) + "\n")
    shutil.rmtree(run.states, ignore_errors=True)
    return RMResult(output, steps, best_step, data.found, len(data.held), metrics, history)


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
    export_weights(saved, output, merge_into, run.tokenizer, base=reference)
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
