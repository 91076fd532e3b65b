"""Training of an explicit process reward model: a recipe in, a checkpoint with its card out, ready for ``prmbench eval --rm``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from prmbench.data.tokens import ids_hash
from prmbench.engines.checkpoint import checkpoint_hash, locate, read_weights
from prmbench.engines.processes import Share, current_share
from prmbench.errors import UserError
from prmbench.quiet import quiet_libraries
from prmbench.reward_models.card import Card, write_card
from prmbench.reward_models.marks import MarkEncoder, single_id
from prmbench.training.model.exporter import Exporter
from prmbench.training.model.measured import measured_arguments, train_measured
from prmbench.training.model.start import load_start
from prmbench.training.prm.data import LabelledTrace
from prmbench.training.prm.prefix_pairs import traces_of
from prmbench.training.prm.recipe import PRMData, PRMRecipe
from prmbench.training.recipes.lora import add_adapter
from prmbench.training.run_folder import TrainingRun, hold_output, refuse_own_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prmbench.training.prm.trainer import StepTrainer

REPORT_NAME = "prm.json"


@dataclass(frozen=True)
class PRMResult:
    """What a run did.

    Attributes:
        output: Folder of the checkpoint.
        steps: Number of updates.
        best_step: Step whose weights are in `output`.
        metrics: Held-out metrics of these weights; empty without a held-out split.
        history: The trainer's log.
    """

    output: Path
    steps: int
    best_step: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Run(TrainingRun[PRMRecipe]):
    """What every stage of a run needs.

    Attributes:
        encoder: Shows traces to the model.
        data: The traces.
    """

    encoder: MarkEncoder  # type: ignore[assignment]
    data: PRMData


def train_prm(recipe: PRMRecipe, *, log: Callable[[str], None] = lambda _: None) -> PRMResult | None:
    """Run a recipe.

    Writes the best weights (by held-out loss; without a held-out split, the last) with tokenizer, card and ``prm.json`` into
    ``output``. Every ``save_every`` steps the whole state is kept in ``output/trainer``; the same call goes on from there after a
    kill. The same call after the end does nothing.

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
    return PRMResult(run.output, report["steps"], report["best_step"], report["metrics"], report["history"])


def _prepare(recipe: PRMRecipe, share: Share, log: Callable[[str], None]) -> _Run:
    """Check everything that can be checked before a model loads."""
    folder = locate(recipe.model, "recipe.model")
    refuse_own_folder(recipe, folder)
    encoder = recipe.encoder(folder)
    data = recipe.load(encoder, folder)
    counts, what = data.sentence(), "groups of traces" if recipe.compares else "traces"
    recipe.check_enough(recipe.data, len(data.kept), what, counts)
    log(counts)
    tokens = ids_hash(part for one in data.found.traces for part in _parts(one, counted=bool(recipe.concentrates)))
    hashes = {"start": checkpoint_hash(folder), "tokens": tokens}
    return _Run(recipe, folder, encoder, hashes, share, log, data)


def _parts(trace: LabelledTrace, *, counted: bool) -> list[NDArray[Any]]:
    """What decides what is learned of a trace."""
    parts = [trace.ids, trace.marks, trace.targets.view("int32")]
    return [*parts, trace.trials] if counted else parts


def _make_trainer(run: _Run, fresh: bool) -> StepTrainer:
    from prmbench.training.prm.trainer import StepData, StepTrainer
    from prmbench.training.watch.callbacks import watch

    recipe, kept, held = run.recipe, run.data.kept, run.data.held
    updates = recipe.updates(len(kept))
    return StepTrainer(
        recipe,
        held,
        model=_make_model(run),
        processing_class=run.encoder.tokenizer,
        train_dataset=StepData(kept),
        callbacks=watch(run),
        args=measured_arguments(recipe, run.states, updates, recipe.evaluate_every, held=bool(held), fresh=fresh),
    )


def _make_model(run: _Run) -> PreTrainedModel:
    """The model to train: its forward gives logits at marks, and an adapter is in place where there is to be one."""
    from prmbench.training.prm.forward import CONCENTRATION_HEAD, SCORE_HEAD

    model, lora = _load_model(run, run.folder, train=True), run.recipe.lora
    if lora is not None:
        from transformers import set_seed

        set_seed(run.recipe.seed)  # decides the first weights of the adapter
        heads = [
            *([SCORE_HEAD] if run.recipe.has_head else []),
            *([CONCENTRATION_HEAD] if run.recipe.concentrates else []),
        ]
        model = add_adapter(model, lora, heads or None)
    return model.train()


def _load_model(run: _Run, folder: Path, *, train: bool = False) -> PreTrainedModel:
    """A model whose forward gives logits at marks: that of the start, or with the weights of a checkpoint that the run wrote.

    The weights of the second are read by their names, because a checkpoint with a head is no language model to be loaded as one.
    """
    from prmbench.training.prm.forward import give_pair_logits, give_step_logits

    recipe = run.recipe
    model = load_start(recipe, run.folder, train=train)
    if recipe.has_head:
        give_step_logits(model, recipe.seed, recipe.concentrates, bias=recipe.compares is None)
    else:
        right, wrong = (single_id(run.encoder, word) for word in recipe.words)
        give_pair_logits(model, (right, wrong), str(folder))
    if folder != run.folder:
        weights = dict(model.named_parameters())
        saved = read_weights(folder, list(weights))
        if missing := sorted(weights.keys() - saved.keys()):
            raise UserError(f"{folder}: is not whole: it lacks {', '.join(missing[:3])}")
        for name, weight in weights.items():
            weight.data.copy_(saved[name])
    return model


def _finish(run: _Run) -> dict[str, Any]:
    """What is to be reported beside the training."""
    found = run.data.found
    return {
        "data": {**vars(found), "traces": len(found.traces)},
        "trained_traces": sum(len(traces_of(one)) for one in run.data.kept),
        "held_out_traces": sum(len(traces_of(one)) for one in run.data.held),
    }


def _export(run: _Run, saved: Path, output: Path) -> None:
    """Make what the trainer saved a checkpoint with a card."""
    recipe = run.recipe
    load = functools.partial(_load_model, run)
    Exporter(run.folder, load, run.encoder.tokenizer, recipe.merges, recipe.coarse, has_head=True).write(saved, output)
    card = Card(
        kind=recipe.kind,
        objective=recipe.objective,
        prompt=recipe.prompt,
        tokens=run.encoder.options,
        marks=recipe.marks,
        pair=None if recipe.has_head else recipe.words,
    )
    write_card(output, card)
