"""Reward-model training: a recipe in, a checkpoint with its card out, ready for ``prmbench eval --rm``."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from prmbench.data.prompts import find_prompt
from prmbench.data.records import read_json
from prmbench.data.tokens import TokenOptions, TraceEncoder, ids_hash
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
from prmbench.results.provenance import versions
from prmbench.results.store import write_atomically
from prmbench.reward_models.card import Card, ReadState, write_card
from prmbench.training.data.pairs import Pair, Pairs, load_pairs, split_held_out
from prmbench.training.model.export import ADAPTER_NAME, export_weights
from prmbench.training.objectives import ObjectiveSpec, find_objective
from prmbench.training.recipes.lora import LoraOptions, add_adapter
from prmbench.training.recipes.optimisation import Optimisation, longest_sequence, trainer_arguments
from prmbench.training.run_folder import claim, hold_output, last_state, refuse_own_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.training.rm.trainer import RewardModelTrainer

REPORT_NAME = "rm.json"


class RMRecipe(Optimisation):
    """A reward-model run. batch_size and micro_batch_size count pairs, whatever the objective: all see the same data."""

    objective: str = Field(description="ipvrm, ipvrm_late, ipvrm_early, implicit_prm, dpo or q_rm")
    data: str = Field(description="rollouts, {messages, correct} records, or {prompt, chosen, rejected} pairs")
    beta: float | None = Field(None, gt=0, description="null: the paper's for the objective")
    margin: float | None = Field(None, ge=0, description="null: the paper's for the objective")
    read_state: ReadState = Field("after", description="Q-RM: the state a token's value is read from")
    reference: str | None = Field(None, description="pi_ref: folder or Hub id; null: the model that is started from")
    reference_logprobs: Literal["cached", "as-needed"] = Field(
        "cached", description="cached: computed once before training and kept; as-needed: with every batch"
    )
    prompt: str = Field("boxed", description="prompt template that rollouts were sampled with, by name")
    pairs_per_prompt: int = Field(
        1, ge=1, description="(correct, incorrect) pairs drawn of a prompt's responses at most"
    )
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )
    held_out: int = Field(
        0, ge=0, description="pairs kept back; their metrics are logged, and the best weights kept by their loss"
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between two measurements; null: ten in a run")

    @model_validator(mode="after")
    def _fits(self) -> RMRecipe:
        spec = find_objective(self.objective)
        if self.margin and not spec.has_margin:
            raise ValueError(f"margin {self.margin}: {self.objective} has none")
        if spec.kind == "q_rm" and self.reference is not None:
            raise ValueError("reference: q_rm has none; leave it out")
        if self.lora is not None and not self.lora.merge:
            if spec.kind == "q_rm":
                raise ValueError("lora.merge false: a q_rm checkpoint is always merged")
            if self.reference is not None:
                raise ValueError("lora.merge false: an adapter's reference is its base; leave reference out, or merge")
        return self

    def updates(self, records: int) -> int:
        """Updates that a run over this many pairs makes; every one is full."""
        return self.max_steps or max(1, math.ceil(self.epochs * (records // self.batch_size)))

    def scale(self, spec: ObjectiveSpec) -> float:
        """Beta, or the objective's default."""
        return spec.beta if self.beta is None else self.beta

    def offset(self, spec: ObjectiveSpec) -> float:
        """Margin, or the objective's default."""
        return spec.margin if self.margin is None else self.margin


@dataclass(frozen=True)
class RMResult:
    """What a run did. best_step: of the weights in `output`. metrics: held-out ones of these, empty without a held-out split."""

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
        folder, reference: of the model to start from, and of pi_ref. states: folder of saved states.
        hashes: of weights and token ids, by what they are of.
    """

    recipe: RMRecipe
    spec: ObjectiveSpec
    folder: Path
    reference: Path
    options: LoadOptions
    states: Path
    hashes: dict[str, str]


def train_rm(recipe: RMRecipe, *, log: Callable[[str], None] = lambda _: None) -> RMResult | None:
    """Run a recipe. Writes the best weights (by held-out loss; without a held-out split, the last) with tokenizer, card
    and ``rm.json`` into ``output``, and the last ones into ``output/last``.

    Every `save_every` steps the whole state is kept in ``output/trainer``; the same call goes on from there after a kill.

    Args:
        log: called with a line for every stage and measurement.

    Returns:
        The result; None in processes other than the first.

    Raises:
        UserError: a wrong model, data file or setting; nothing has been trained then.
    """
    quiet_libraries()
    share = current_share()
    with hold_output(recipe, share):
        return _train(recipe, share, log)


def _train(recipe: RMRecipe, share: Share, log: Callable[[str], None]) -> RMResult | None:
    spec = find_objective(recipe.objective)
    options = LoadOptions(dtype=recipe.dtype)
    folder = locate(recipe.model, "model")
    reference = folder if recipe.reference is None else locate(recipe.reference, "reference")
    refuse_own_folder(recipe, folder, reference)
    tokenizer = load_tokenizer(folder, options)
    encoder = TraceEncoder(tokenizer, recipe.tokens)
    data = load_pairs(
        recipe.data,
        encoder,
        find_prompt(recipe.prompt),
        max_length=longest_sequence(recipe, folder),
        per_prompt=recipe.pairs_per_prompt,
        seed=recipe.seed,
    )
    kept, held = split_held_out(data.pairs, recipe.held_out, recipe.seed)
    if len(kept) < recipe.batch_size:
        raise UserError(
            f"{recipe.data}: {len(kept):,} pairs are left to train on, an update takes batch_size {recipe.batch_size}: lower it "
            f"or held_out ({data.sentence()}; {len(held):,} held out)"
        )
    if share.main:
        log(f"{data.sentence()}; {len(held):,} held out")
    start = checkpoint_hash(folder)
    hashes = {
        "start": start,
        "reference": start if reference == folder else checkpoint_hash(reference),
        "tokens": ids_hash(response.ids for pair in data.pairs for response in pair.rows),
    }
    run = _Run(recipe, spec, folder, reference, options, Path(recipe.output) / "trainer", hashes)
    if share.main:
        claim(run.states, recipe, hashes)
    share.wait()
    last = last_state(run.states)
    trainer = _make_trainer(run, kept, held, share, log, fresh=last is None)
    trainer.processing_class = tokenizer
    if last is not None and share.main:
        log(f"going on from {last}")
    trainer.train(resume_from_checkpoint=last)
    if held and not any(
        "eval_loss" in row and row["step"] == trainer.state.global_step for row in trainer.state.log_history
    ):
        trainer.evaluate()
    trainer.save_model(str(run.states / "last"))
    share.wait()
    if not share.main:
        return None
    return _export(run, trainer, data, len(kept), len(held))


def _make_trainer(
    run: _Run, kept: list[Pair], held: list[Pair], share: Share, log: Callable[[str], None], *, fresh: bool
) -> RewardModelTrainer:
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from prmbench.engines.hf.engine import HFEngine
    from prmbench.training.model.progress import progress_callback
    from prmbench.training.rm.reference import reference_logprobs
    from prmbench.training.rm.trainer import PairData, RewardModelTrainer

    recipe, spec, options = run.recipe, run.spec, run.options
    adapter_is_ratio = recipe.lora is not None and run.reference == run.folder
    cached, engine = None, None
    if spec.kind == "implicit" and not (adapter_is_ratio and recipe.reference_logprobs == "as-needed"):
        engine = HFEngine(load_causal_lm(run.reference, options), str(run.reference))
    if engine is not None and recipe.reference_logprobs == "cached":
        device, _ = engine.device_and_dtype()
        cached = reference_logprobs(
            engine,
            run.hashes["reference"],
            [response for pair in [*kept, *held] for response in pair.rows],
            run.states,
            autocast=torch.autocast(device.partition(":")[0], torch.bfloat16) if recipe.autocasts() else nullcontext(),
            batch_tokens=default_batch_tokens(device),
            share=share,
        )
        engine = None  # its memory is free again
    updates = recipe.updates(len(kept))
    every = recipe.evaluate_every or max(1, updates // 10)
    cut = 2 * len(kept)
    trainer = RewardModelTrainer(
        spec=spec,
        beta=recipe.scale(spec),
        margin=recipe.offset(spec),
        held_out=PairData(held, cached[cut:] if cached is not None else None),
        batch_size=recipe.batch_size,
        best=run.states / "best",
        reference=engine,
        adapter_is_ratio=adapter_is_ratio,
        model=_prepare_model(run, recipe.lora),
        train_dataset=PairData(kept, cached[:cut] if cached is not None else None),
        eval_dataset=[] if held else None,
        callbacks=[progress_callback(log)] if share.main else [],
        args=TrainingArguments(
            **trainer_arguments(recipe, run.states, updates),
            remove_unused_columns=False,
            dataloader_drop_last=True,
            logging_steps=max(1, updates // 50),
            eval_strategy="steps" if held else "no",
            eval_steps=every,
            eval_on_start=bool(held) and fresh,
            ddp_find_unused_parameters=False,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _prepare_model(run: _Run, lora: LoraOptions | None) -> PreTrainedModel:
    """The model to train: its forward gives token values, and an adapter is in place where there is to be one.

    Raises:
        UserError: the adapter changes the output layer, whose log-probs are computed outside it.
    """
    from prmbench.reward_models.q_rm import VALUE_HEAD
    from prmbench.training.model.forward import give_logprobs, give_values

    recipe, has_head = run.recipe, run.spec.kind == "q_rm"
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


def _export(run: _Run, trainer: RewardModelTrainer, data: Pairs, n_trained: int, n_held_out: int) -> RMResult:
    from prmbench.training.rm.trainer import BEST_NAME

    recipe, spec = run.recipe, run.spec
    output = Path(recipe.output)
    steps = trainer.state.global_step
    last, best = run.states / "last", run.states / "best"
    best_step = json.loads((best / BEST_NAME).read_text(encoding="utf-8"))["step"] if best.exists() else steps
    _export_weights(run, best if best.exists() else last, output)
    _export_weights(run, last, output / "last")
    history = trainer.state.log_history
    at_best: dict[str, Any] = next(
        (row for row in reversed(history) if row["step"] == best_step and "eval_loss" in row), {}
    )
    metrics = {name.removeprefix("eval_"): value for name, value in at_best.items() if name.startswith("eval_")}
    report = {
        "recipe": recipe.model_dump(),
        "beta": recipe.scale(spec),
        "margin": recipe.offset(spec),
        "data": {**{k: v for k, v in data.__dict__.items() if k != "pairs"}, "pairs": len(data.pairs)},
        "trained_pairs": n_trained,
        "held_out_pairs": n_held_out,
        "hashes": {**run.hashes, "best": checkpoint_hash(output), "last": checkpoint_hash(output / "last")},
        "versions": versions(),
        "steps": steps,
        "best_step": best_step,
        "metrics": metrics,
        "history": history,
    }
    write_atomically(output / REPORT_NAME, json.dumps(report, indent=2) + "\n")
    shutil.rmtree(run.states, ignore_errors=True)
    return RMResult(output, steps, best_step, data, n_held_out, metrics, history)


def _export_weights(run: _Run, saved: Path, output: Path) -> None:
    """Make what the trainer saved a checkpoint with a card."""
    recipe, spec = run.recipe, run.spec
    merges = recipe.lora is not None and recipe.lora.merge
    export_weights(
        saved, output, (lambda: _prepare_model(run, None)) if merges else None, load_tokenizer(run.folder, run.options)
    )
    reference: str | None = None
    if spec.kind == "implicit":
        reference = recipe.reference or recipe.model
        if Path(reference).is_dir():
            reference = os.path.relpath(Path(reference).resolve(), output.resolve())
    if (
        recipe.lora is not None and not merges
    ):  # no path of this machine in what may be published: the card leads to the base
        adapter = read_json(output / ADAPTER_NAME) | {"base_model_name_or_path": reference}
        write_atomically(output / ADAPTER_NAME, json.dumps(adapter, indent=2) + "\n")
    card = Card(
        kind=spec.kind,
        objective=recipe.objective,
        beta=recipe.scale(spec),
        margin=recipe.offset(spec),
        read_state=recipe.read_state,
        reference=reference,
        tokens=recipe.tokens,
    )
    write_card(output, card)
