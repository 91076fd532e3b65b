"""Trains an explicit process reward model, and measures it on traces that were kept back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from prmbench.training.model.measured_trainer import MeasuredTrainer
from prmbench.training.prm.forward import CONCENTRATION_HEAD
from prmbench.training.prm.losses import beta_binomial_losses, overconfidence, pair_losses, step_losses
from prmbench.training.prm.metrics import count_metrics, pair_metrics, step_metrics
from prmbench.training.prm.prefix_pairs import PrefixGroup, Record, traces_of
from prmbench.training.prm.recipe import PRMRecipe

Floats = NDArray[np.float64]


class StepData(Dataset[Record]):
    """Traces, or groups of them, with their lengths."""

    def __init__(self, records: Sequence[Record]) -> None:
        """Take records.

        Args:
            records: The traces, or groups.
        """
        self.records, self.lengths = records, [len(one) for one in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def collate(records: Sequence[Record]) -> dict[str, Tensor]:
    """Make a batch.

    Args:
        records: The traces, or groups of traces.

    Returns:
        ``input_ids``: token ids, padded on the right with 0, int64, shape [b, l]. ``rows`` and ``columns``: where scores are read,
        trace by trace, int64, shape [n]. ``trials``: continuations that a target is the share of, float32, shape [n].
        ``labels``: of traces the targets, float32, shape [n]; of groups ones, float32, shape [n_pairs], with ``better`` and
        ``worse``, the places of each pair, int64, shape [n_pairs]. There are as many labels as losses.
    """
    traces = [trace for record in records for trace in traces_of(record)]
    input_ids = torch.zeros((len(traces), max(len(one) for one in traces)), dtype=torch.long)
    for i, one in enumerate(traces):
        input_ids[i, : len(one)] = torch.from_numpy(one.ids)
    counts = torch.tensor([len(one.marks) for one in traces])
    batch = {
        "input_ids": input_ids,
        "rows": torch.repeat_interleave(torch.arange(len(traces)), counts),
        "columns": torch.from_numpy(np.concatenate([one.marks for one in traces])),
        "labels": torch.from_numpy(np.concatenate([one.targets for one in traces])),
        "trials": torch.from_numpy(np.concatenate([one.trials for one in traces]).astype(np.float32)),
    }
    groups = [one for one in records if isinstance(one, PrefixGroup)]
    if groups:
        # The indices of a group count its own marks: those of the groups before it come first.
        before = np.cumsum([0, *(sum(len(trace.marks) for trace in group.traces) for group in groups)])
        for name in ("better", "worse"):
            places = [getattr(group, name) + at for group, at in zip(groups, before[:-1], strict=True)]
            batch[name] = torch.from_numpy(np.concatenate(places))
        batch["labels"] = torch.ones(len(batch["better"]))
    return batch


class StepTrainer(MeasuredTrainer[PRMRecipe, Sequence[Record]]):
    """Trains a model whose forward gives a logit at every mark (`prmbench.training.prm.forward`)."""

    has_head = True

    def __init__(self, recipe: PRMRecipe, held_out: Sequence[Record], **arguments: Any) -> None:
        """Make the trainer.

        Args:
            recipe: Says the objective, and the records of an update.
            held_out: Traces, or groups, for `evaluate`; may be empty.
            **arguments: Arguments of `transformers.Trainer`.
        """
        super().__init__(recipe, held_out, data_collator=collate, **arguments)
        self.model_accepts_loss_kwargs = True  # so that the steps of a whole update are counted
        self._loss_shifts_labels = (
            False  # all of them: transformers leaves out the first of each micro-batch for language models
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer. The head of the concentration has a learning rate of its own.

        Args:
            model: The model, where it is wrapped already; None: that of the trainer.
        """
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        options = self.recipe.concentrates
        if not fresh or options is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        head = {id(one) for name, one in named if CONCENTRATION_HEAD in name.split(".")}
        for group in list(optimizer.param_groups):
            mine = [one for one in group["params"] if id(one) in head]
            if mine:
                group["params"] = [one for one in group["params"] if id(one) not in head]
                rate = group["lr"] * options.learning_rate_factor
                optimizer.add_param_group({**group, "params": mine, "lr": rate})
        return optimizer

    def losses(self, outputs: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        """Compute the losses of a batch, by the objective of the recipe.

        Args:
            outputs: What the model's forward gives.
            inputs: The batch, as `collate` makes it.

        Returns:
            A loss for each step; of groups, for each pair of prefixes. Shape [n].
        """
        values, targets = outputs["values"], inputs["labels"]
        if self.recipe.compares is not None:
            return pair_losses(values, inputs["better"], inputs["worse"])
        options = self.recipe.concentrates
        if options is None:
            return step_losses(values, targets)
        trials = inputs["trials"]
        counted = (values, outputs["concentrations"], (targets * trials).round(), trials)
        return beta_binomial_losses(*counted) + options.penalty * overconfidence(*counted)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the part of the mean over an update's steps, or pairs, that a micro-batch has.

        Args:
            model: The model, wrapped as it is trained.
            inputs: A batch, as `collate` makes it.
            return_outputs: Whether the outputs are returned too.
            num_items_in_batch: Steps (pairs) of the whole update, over all processes; None: the batch is the update.

        Returns:
            The loss, or the loss and what the model's forward gives.
        """
        outputs = model(**{name: inputs[name] for name in ("input_ids", "rows", "columns")})
        n = len(inputs["labels"]) if num_items_in_batch is None else num_items_in_batch
        loss = self.losses(outputs, inputs).sum() / n
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def held_out_outputs(self) -> dict[str, Floats]:
        """Compute what the model says of every held-out step, in order.

        Each process computes all, so that any sharding stays in step.

        Returns:
            What the model's forward gives, by name. Shape [n].
        """
        lengths = [len(one) for one in self.held_out]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        found: dict[str, dict[int, Floats]] = {}
        size = self.args.per_device_eval_batch_size
        with self.evaluating():
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                inputs = self._prepare_inputs(collate([self.held_out[i] for i in indices]))
                _, outputs = self.compute_loss(self.model_wrapped, inputs, return_outputs=True)
                edges = np.cumsum([sum(len(one.marks) for one in traces_of(self.held_out[i])) for i in indices])[:-1]
                for name, values in outputs.items():
                    parts = np.split(values.double().cpu().numpy(), edges)
                    found.setdefault(name, {}).update(zip(indices, parts, strict=True))
        return {name: np.concatenate([parts[i] for i in range(len(parts))]) for name, parts in found.items()}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out traces, and keep the best weights.

        Args:
            *_: Not used.
            **__: Not used.

        Returns:
            What `step_metrics` gives, or `count_metrics` or `pair_metrics` by the objective, each under ``eval_`` and its name.

        Raises:
            UserError: A logit is not a finite number.
        """
        outputs, truth = self.held_out_outputs(), collate(self.held_out)
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise self.broken("the logit of a held-out step is not a finite number")
        values = outputs["values"]
        if self.recipe.compares is not None:
            return self.keep_measured(pair_metrics(values, truth["better"].numpy(), truth["worse"].numpy()))
        targets = truth["labels"].double().numpy()
        if self.recipe.concentrates is None:
            return self.keep_measured(step_metrics(values, targets))
        trials = truth["trials"].double().numpy()
        successes = np.round(targets * trials)
        return self.keep_measured(count_metrics(values, outputs["concentrations"], successes, trials))
