"""Trains an explicit process reward model, and measures it on traces that were kept back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.data import Dataset, Sampler

from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, reliability, sigmoid
from prmbench.training.model.trainer import GuardedTrainer
from prmbench.training.prm.data import LabelledTrace
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.rm.trainer import UpdateSampler

Floats = NDArray[np.float64]


def step_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of each step, -t log s(z) - (1 - t) log(1 - s(z)), s the sigmoid.

    z is the logit for right minus the logit for wrong. So this is the cross-entropy of two classes, as TRL's PRM trainer and
    transformers' token classification have it, and of Math-Shepherd's two tokens renormalised over the two; with soft targets it
    is the cross-entropy of distributions.

    Args:
        logits: Logits z. Float, shape [n].
        targets: Probability t that each step is right. Float, shape [n].

    Returns:
        The losses. Shape [n].
    """
    return -targets * logsigmoid(logits) - (1 - targets) * logsigmoid(-logits)


class StepData(Dataset[LabelledTrace]):
    """Traces, with their lengths."""

    def __init__(self, traces: Sequence[LabelledTrace]) -> None:
        """Take traces.

        Args:
            traces: The traces.
        """
        self.traces, self.lengths = traces, [len(one) for one in traces]

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, index: int) -> LabelledTrace:
        return self.traces[index]


def collate(traces: Sequence[LabelledTrace]) -> dict[str, Tensor]:
    """Make a batch.

    Args:
        traces: The traces.

    Returns:
        ``input_ids``: token ids, padded on the right with 0, int64, shape [b, l]. ``rows`` and ``columns``: where scores are read,
        trace by trace, int64, shape [n]. ``labels``: the targets, float32, shape [n].
    """
    input_ids = torch.zeros((len(traces), max(len(one) for one in traces)), dtype=torch.long)
    for i, one in enumerate(traces):
        input_ids[i, : len(one)] = torch.from_numpy(one.ids)
    counts = torch.tensor([len(one.marks) for one in traces])
    return {
        "input_ids": input_ids,
        "rows": torch.repeat_interleave(torch.arange(len(traces)), counts),
        "columns": torch.from_numpy(np.concatenate([one.marks for one in traces])),
        "labels": torch.from_numpy(np.concatenate([one.targets for one in traces])),
    }


class StepTrainer(GuardedTrainer):
    """Trains a model whose forward gives a logit at every mark (`prmbench.training.prm.forward`)."""

    has_head = True

    def __init__(self, recipe: PRMRecipe, held_out: Sequence[LabelledTrace], **arguments: Any) -> None:
        """Make the trainer.

        Args:
            recipe: Says the traces of an update.
            held_out: Traces for `evaluate`; may be empty.
            **arguments: Arguments of `transformers.Trainer`.
        """
        super().__init__(data_collator=collate, **arguments)
        self.model_accepts_loss_kwargs = True  # so that the steps of a whole update are counted
        self._loss_shifts_labels = (
            False  # all of them: transformers leaves out the first of each micro-batch for language models
        )
        self.recipe, self.held_out = recipe, held_out

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        data = train_dataset if train_dataset is not None else self.train_dataset
        return UpdateSampler(data.lengths, self.recipe.batch_size, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the part of the mean over an update's steps that a micro-batch has.

        Args:
            model: The model, wrapped as it is trained.
            inputs: A batch, as `collate` makes it.
            return_outputs: Whether the logits are returned too.
            num_items_in_batch: Steps of the whole update, over all processes; None: the batch is the update.

        Returns:
            The loss, or the loss and ``{"values": logits}``.
        """
        targets = inputs["labels"]
        logits = model(**{name: inputs[name] for name in ("input_ids", "rows", "columns")})["values"]
        n = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = step_losses(logits, targets).sum() / n
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, {"values": logits}) if return_outputs else loss

    def held_out_logits(self) -> Floats:
        """Compute the logit of every held-out step. Each process computes all, so that any sharding stays in step. Shape [n]."""
        lengths = [len(one) for one in self.held_out]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        found: dict[int, Floats] = {}
        size = self.args.per_device_eval_batch_size
        with self.evaluating():
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                inputs = self._prepare_inputs(collate([self.held_out[i] for i in indices]))
                _, outputs = self.compute_loss(self.model_wrapped, inputs, return_outputs=True)
                values = outputs["values"].double().cpu().numpy()
                edges = np.cumsum([len(self.held_out[i].marks) for i in indices])[:-1]
                found |= dict(zip(indices, np.split(values, edges), strict=True))
        return np.concatenate([found[i] for i in range(len(found))])

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out traces, and keep the best weights.

        Args:
            *_: Not used.
            **__: Not used.

        Returns:
            What `step_metrics` gives, each under ``eval_`` and its name.

        Raises:
            UserError: A logit is not a finite number.
        """
        logits = self.held_out_logits()
        if not np.isfinite(logits).all():
            raise self.broken("the logit of a held-out step is not a finite number")
        found = step_metrics(logits, np.concatenate([one.targets for one in self.held_out]).astype(np.float64))
        return self.keep_measured(found)


def step_metrics(logits: Floats, targets: Floats) -> dict[str, float]:
    """Measure step logits against their targets.

    Args:
        logits: Logits. float64, shape [n].
        targets: Probability that each step is right. float64, shape [n].

    Returns:
        ``loss``: mean cross-entropy. ``accuracy``: share of steps whose logit is on the side of 0.5 that the target is on.
        ``auc``: of the logit against targets above 0.5; NaN where all are on one side. ``brier`` and ``ece`` of the probability.
    """
    losses = step_losses(torch.from_numpy(logits), torch.from_numpy(targets))
    right, probability = targets > 0.5, sigmoid(logits)
    return {
        "loss": float(losses.mean()),
        "accuracy": float(np.mean((logits > 0) == right)),
        "auc": ranking_auc(logits, right),
        "brier": brier(probability, targets),
        "ece": reliability(probability, targets).ece(),
    }
