"""Reward-model training: a recipe in, a checkpoint with its card out, ready for ``prmbench eval --rm``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prmbench.data.tokens import TraceEncoder, ids_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.checkpoint import checkpoint_hash, locate, read_weights
from prmbench.engines.load import load_causal_lm
from prmbench.engines.processes import Share, current_share
from prmbench.engines.reference_cache import LogprobCache, open_cache
from prmbench.errors import UserError
from prmbench.policies.prompt_record import PromptRecord, prompt_differences
from prmbench.quiet import quiet_libraries
from prmbench.reward_models.card import Card, reference_fields, write_card
from prmbench.reward_models.implicit import shared_logits
from prmbench.training.data.pairs import Pairs
from prmbench.training.model.exporter import Exporter
from prmbench.training.model.measured import measured_arguments, train_measured
from prmbench.training.model.start import load_start
from prmbench.training.recipes.lora import add_adapter
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
        metrics: Held-out metrics of the weights in `output`; empty without a held-out split.
        history: The trainer's log.
    """

    output: Path
    steps: int
    best_step: int
    data: Pairs
    metrics: dict[str, float]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Run(TrainingRun[RMRecipe]):
    """What every stage of a run needs.

    Attributes:
        reference: Checkpoint of pi_ref.
        data: The pairs.
        size: Number of token ids, from 0 on, that log-probs are taken over; None: all.
    """

    reference: Path
    data: RMData
    size: int | None


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
        report = run.report(
            REPORT_NAME, "best", functools.partial(train_measured, run, _make_trainer, _export, _finish)
        )
    if report is None:
        return None
    return RMResult(
        output=run.output,
        steps=report["steps"],
        best_step=report["best_step"],
        data=run.data.found,
        metrics=report["metrics"],
        history=report["history"],
    )


def _prepare(recipe: RMRecipe, share: Share, log: Callable[[str], None]) -> _Run:
    """Check everything that can be checked before a model loads."""
    folder = locate(recipe.model, "recipe.model")
    reference = folder if recipe.reference is None else locate(recipe.reference, "recipe.reference")
    refuse_own_folder(recipe, folder, reference)
    encoder = TraceEncoder(recipe.tokenizer(folder), recipe.rendering)
    apart = not recipe.has_head and reference != folder
    size = shared_logits(folder, [reference], recipe.load_options) if apart else None
    data = recipe.load(encoder, folder)
    if size is not None:
        log(f"log-probs are taken over the {size:,} tokens that {recipe.model} and its reference share")
        if any(int(response.ids.max()) >= size for pair in data.found.pairs for response in pair.rows):
            raise UserError(f"{recipe.data}: holds a token that {recipe.reference} does not know; leave it out")
    for remark in data.found.remarks:
        log(remark)
    if not data.found.prompted:
        log("the data bring their own prompts: the card names none, and evaluation will put the bare problem")
    else:
        for remark in prompt_differences(folder, PromptRecord.of(encoder, [recipe.prompt])):
            log(remark)
    counts = f"{data.found.sentence()}; {len(data.held):,} held out"
    recipe.check_enough(recipe.data, len(data.kept), "pairs", counts)
    log(counts)
    start = checkpoint_hash(folder)
    hashes = {
        "start": start,
        "reference": start if reference == folder else checkpoint_hash(reference),
        "tokens": ids_hash(response.ids for pair in data.found.pairs for response in pair.rows),
    }
    return _Run(recipe, folder, encoder, hashes, share, log, reference, data, size)


def _make_trainer(run: _Run, fresh: bool) -> RewardModelTrainer:
    import torch

    from prmbench.engines.hf.engine import HFEngine
    from prmbench.reward_models.reference_model import ReferenceModel, reference_identity, reference_logprobs
    from prmbench.training.model.sharding import load_frozen
    from prmbench.training.rm.trainer import PairData, RewardModelTrainer
    from prmbench.training.watch.callbacks import watch

    recipe, kept, held = run.recipe, run.data.kept, run.data.held

    # The reference gives log-probs beforehand, or with every batch, or is the model without its adapter.
    cached, make_reference = None, None
    common = None if run.size is None else np.arange(run.size)
    adapter_is_ratio = recipe.lora is not None and run.reference == run.folder

    def load() -> HFEngine:
        return HFEngine(load_causal_lm(run.reference, recipe.load_options), str(run.reference), common)

    if recipe.meaning.kind == "implicit" and recipe.reference_logprobs == "cached":
        options = recipe.load_options
        device = options.resolve_device().type
        autocast = functools.partial(torch.autocast, device, torch.bfloat16) if recipe.autocasts() else nullcontext
        identity = reference_identity(
            run.hashes["reference"],
            "hf",
            options,
            autocast="bfloat16" if recipe.autocasts() else None,
            common=common,
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
        make_reference = functools.partial(load_frozen, run.reference, recipe.load_options, size=run.size)

    # Make the trainer.
    updates, cut = recipe.updates(len(kept)), 2 * len(kept)
    return RewardModelTrainer(
        recipe,
        held_out=PairData(held, cached[cut:] if cached is not None else None),
        make_reference=make_reference,
        model=_make_model(run),
        processing_class=run.encoder.tokenizer,
        train_dataset=PairData(kept, cached[:cut] if cached is not None else None),
        callbacks=watch(run),
        args=measured_arguments(recipe, run.states, updates, recipe.evaluate_every, held=bool(held), fresh=fresh),
    )


def _make_model(run: _Run) -> PreTrainedModel:
    """The model to train: its forward gives token values, and an adapter is in place where there is to be one.

    Raises:
        UserError: The adapter has no such targets, or changes the output layer, whose log-probs are computed outside it.
    """
    from prmbench.reward_models.q_rm import VALUE_HEAD

    model, lora = _load_model(run.recipe, run.folder, run.size, train=True), run.recipe.lora
    if lora is not None:
        from transformers import set_seed

        set_seed(run.recipe.seed)  # decides the first weights of the adapter
        model = add_adapter(model, lora, [VALUE_HEAD] if run.recipe.has_head else None)
    return model.train()


def _load_model(recipe: RMRecipe, folder: Path, size: int | None = None, *, train: bool = False) -> PreTrainedModel:
    """A checkpoint whose forward gives token values; of one that was trained already, with its head."""
    from prmbench.reward_models.q_rm import VALUE_HEAD
    from prmbench.training.model.forward import give_logprobs, give_values

    model = load_start(recipe, folder, train=train)
    if not recipe.has_head:
        give_logprobs(model, str(folder), size)
        return model
    give_values(model, recipe.read_state, recipe.seed)
    name = f"{VALUE_HEAD}.weight"
    if not train and (saved := read_weights(folder, [name])):
        model.get_parameter(name).data.copy_(saved[name])
    return model


def _finish(run: _Run) -> dict[str, Any]:
    """Write the last weights too as a checkpoint. Returns what is to be reported beside the training."""
    recipe, data = run.recipe, run.data
    _export(run, run.states / "last", run.output / "last")
    return {
        "hashes": {"last": checkpoint_hash(run.output / "last", run.folder)},
        "beta": recipe.scale,
        "margin": recipe.offset,
        "data": {**vars(data.found), "pairs": len(data.found.pairs)},
        "trained_pairs": len(data.kept),
        "held_out_pairs": len(data.held),
    }


def _export(run: _Run, saved: Path, output: Path) -> None:
    """Make what the trainer saved a checkpoint with a card."""
    recipe = run.recipe
    reference: dict[str, str | None] = {}
    if recipe.meaning.kind == "implicit":
        reference = reference_fields(recipe.reference or recipe.model, run.hashes["reference"], output)
    load = functools.partial(_load_model, recipe)
    exporter = Exporter(run.folder, load, run.encoder.tokenizer, recipe.merges, recipe.coarse, recipe.has_head)
    exporter.write(saved, output, base=reference.get("reference") or reference.get("reference_name"))
    card = Card(
        kind=recipe.meaning.kind,
        objective=recipe.objective,
        beta=recipe.scale,
        margin=recipe.offset,
        read_state=recipe.read_state,
        prompt=recipe.prompt if run.data.found.prompted else None,
        chat_template=str(run.encoder.conversation()["chat_template"]),
        tokens=recipe.tokens,
        **reference,
    )
    write_card(output, card)
