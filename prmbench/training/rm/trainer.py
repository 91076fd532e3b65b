"""The reward-model trainer: transformers' Trainer with our batches, objectives and held-out metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from prmbench.training.data.pairs import Pair, Response
from prmbench.training.model.forward import Model, pack
from prmbench.training.model.measured_trainer import MeasuredTrainer
from prmbench.training.rm.heldout import held_out_metrics
from prmbench.training.rm.losses import find_loss
from prmbench.training.rm.recipe import RMRecipe

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One response of a pair.

    Attributes:
        response: The response.
        reference: The reference's log-probs of its tokens, float32, shape [t]; None where they are not needed, or computed as
            needed.
    """

    response: Response
    reference: Floats | None


class PairData(Dataset[tuple[Row, Row]]):
    """Pairs as (correct, incorrect) rows."""

    def __init__(self, pairs: Sequence[Pair], reference: Sequence[Floats] | None) -> None:
        """Join pairs with what the reference says of them.

        Args:
            pairs: The pairs.
            reference: The reference's log-probs of every response, correct first; None where there are none.
        """
        responses = [response for pair in pairs for response in pair.rows]
        known = reference if reference is not None else [None] * len(responses)
        rows = [Row(response, one) for response, one in zip(responses, known, strict=True)]
        self.rows = list(zip(rows[0::2], rows[1::2], strict=True))
        self.lengths = [len(pair) for pair in pairs]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Row, Row]:
        return self.rows[index]


def collate(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Tensor]:
    """Make a batch whose rows 2i and 2i + 1 are a pair.

    Args:
        pairs: The pairs.

    Returns:
        What `pack` gives; ``correct``, bool, shape [2p]; and ``reference``, float32, shape [n], where it is known.
    """
    rows = [row for pair in pairs for row in pair]
    batch = {**pack([row.response for row in rows]), "correct": torch.arange(len(rows)) % 2 == 0}
    if rows[0].reference is not None:
        batch["reference"] = torch.from_numpy(
            np.concatenate([row.reference for row in rows if row.reference is not None])
        )
    return batch


class RewardModelTrainer(MeasuredTrainer[RMRecipe, PairData]):
    """Trains a model whose forward gives a value a response token (`prmbench.training.model.forward`)."""

    def __init__(
        self,
        recipe: RMRecipe,
        held_out: PairData,
        make_reference: Callable[[Accelerator], Model] | None = None,
        **arguments: Any,
    ) -> None:
        """Make the trainer.

        Args:
            recipe: Says the objective with its numbers, and the pairs of an update.
            held_out: Pairs for `evaluate`; may be empty.
            make_reference: Loads the reference, which computes its log-probs with every batch; called with the accelerator. None
                where rows carry them, where there is no reference, or where it is the model itself with its adapter off.
            **arguments: Arguments of `transformers.Trainer`.
        """
        super().__init__(recipe, held_out, data_collator=collate, **arguments)
        self.model_accepts_loss_kwargs = False  # losses are means over pairs, so the trainer averages micro-batches
        self.reference = None if make_reference is None else make_reference(self.accelerator)
        self.loss, self.has_head = find_loss(recipe.meaning), recipe.has_head

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the objective's mean over the batch's units.

        Args:
            model: The model, wrapped as it is trained.
            inputs: A batch, as `collate` makes it.
            return_outputs: Whether the token values are returned too.
            num_items_in_batch: Not used.

        Returns:
            The loss, or the loss and ``{"values": token values}``.
        """
        values = self.token_values(model, inputs)
        loss = self.loss(values, inputs["mask"], inputs["correct"], self.recipe.scale, self.recipe.offset).mean()
        return (loss, {"values": values}) if return_outputs else loss

    def token_values(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Compute the values of response tokens before beta: log-ratios, or Q-RM's Z.

        Args:
            model: The model, wrapped as it is trained.
            inputs: A batch, as `collate` makes it.

        Returns:
            0 in padding. float32, shape [rows, t].
        """
        where = {name: inputs[name] for name in ("input_ids", "rows", "columns")}
        flat = model(**where)["values"].float()
        if not self.has_head:
            flat = flat - (inputs["reference"] if "reference" in inputs else self._reference_logprobs(model, where))
        mask = inputs["mask"]
        return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

    def _reference_logprobs(self, model: Any, where: dict[str, Tensor]) -> Tensor:
        if self.reference is None:
            with self.evaluating(), self.accelerator.unwrap_model(model).disable_adapter():
                found: Tensor = model(**where)["values"].float()
            return found
        with torch.no_grad(), self.accelerator.autocast():
            return self.reference(**where)["values"]

    def held_out_values(self) -> list[NDArray[np.float64]]:
        """Compute the token values of every held-out response.

        Each process computes all of them, so that any sharding stays in step.

        Returns:
            Token values of each response, correct first. Each float64, shape [t].
        """
        order = sorted(range(len(self.held_out)), key=lambda i: -self.held_out.lengths[i])
        found: dict[int, NDArray[np.float64]] = {}
        size = self.args.per_device_eval_batch_size
        with self.evaluating():
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                inputs = self._prepare_inputs(collate([self.held_out[i] for i in indices]))
                values = self.token_values(self.model_wrapped, inputs).double().cpu().numpy()
                counts = inputs["mask"].sum(dim=1).tolist()
                for row, count in enumerate(counts):
                    found[2 * indices[row // 2] + row % 2] = values[row, :count]
        return [found[i] for i in range(2 * len(self.held_out))]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out pairs, and keep the best weights.

        Args:
            *_: Not used.
            **__: Not used.

        Returns:
            What `held_out_metrics` gives, each under ``eval_`` and its name.

        Raises:
            UserError: A value is not a finite number.
        """
        values = self.held_out_values()
        if not all(np.isfinite(one).all() for one in values):
            raise self.broken("the value of a held-out response is not a finite number")
        found = held_out_metrics(values, self.recipe.meaning, self.recipe.scale, self.recipe.offset)
        return self.keep_measured(found)
