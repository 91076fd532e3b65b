"""The reward-model trainer: transformers' Trainer with our batches, objectives and held-out metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from prmbench.engines.hf.engine import HFEngine
from prmbench.errors import UserError
from prmbench.results.store import write_atomically
from prmbench.training.data.pairs import Pair, Response
from prmbench.training.model.forward import pack
from prmbench.training.objectives import ObjectiveSpec
from prmbench.training.rm.heldout import held_out_metrics

Floats = NDArray[np.float32]

BEST_NAME = "best.json"


@dataclass(frozen=True)
class Row:
    """A response with the reference's log-probs of its tokens (float32, shape [t]; None: not needed, or computed as needed)."""

    response: Response
    reference: Floats | None


class PairData(Dataset[tuple[Row, Row]]):
    """Pairs as (correct, incorrect) rows."""

    def __init__(self, pairs: Sequence[Pair], reference: Sequence[Floats] | None) -> None:
        responses = [response for pair in pairs for response in pair.rows]
        known = reference if reference is not None else [None] * len(responses)
        rows = [Row(response, one) for response, one in zip(responses, known, strict=True)]
        self.rows = list(zip(rows[0::2], rows[1::2], strict=True))
        self.lengths = [len(pair) for pair in pairs]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Row, Row]:
        return self.rows[index]


class UpdateSampler(Sampler[int]):
    """Shuffles, cuts into updates, and sorts by length within each.

    So micro-batches hold pairs of similar length, yet what an update learns from is a plain random draw, the same whatever
    the micro-batch size and the number of processes. Every update is full: the few pairs left over at an epoch's end
    are in another epoch's draw.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
        for start in range(0, len(self), self.batch_size):
            update = order[start : start + self.batch_size]
            yield from sorted(update.tolist(), key=lambda i: (-self.lengths[i], i))


def collate(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Tensor]:
    """Rows 2i and 2i + 1 of the batch are a pair.

    Returns:
        ``input_ids`` int64 [2p, l], padded on the right with 0; ``rows`` and ``columns`` int64 [n]: where the response tokens are;
        ``mask`` bool [2p, t]; ``correct`` bool [2p]; ``reference`` float32 [n] where known.
    """
    rows = [row for pair in pairs for row in pair]
    batch = {**pack([row.response for row in rows]), "correct": torch.arange(len(rows)) % 2 == 0}
    if rows[0].reference is not None:
        batch["reference"] = torch.from_numpy(
            np.concatenate([row.reference for row in rows if row.reference is not None])
        )
    return batch


class RewardModelTrainer(Trainer):
    """Trains a model whose forward gives a value a response token (`prmbench.training.model.forward`).

    Args:
        spec, beta, margin: the objective. held_out: pairs for `evaluate`; may be empty.
        reference: computes the reference's log-probs as needed; None where rows carry them or there is no reference.
        adapter_is_ratio: the reference is the model itself with its adapter off.
        best: folder for the weights with the lowest held-out loss.
        arguments: of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        spec: ObjectiveSpec,
        beta: float,
        margin: float,
        held_out: PairData,
        batch_size: int,
        best: Path,
        reference: HFEngine | None = None,
        adapter_is_ratio: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(data_collator=collate, **arguments)
        self.model_accepts_loss_kwargs = False  # losses are means over pairs: the trainer averages micro-batches
        self.spec, self.beta, self.margin = spec, beta, margin
        self.held_out, self.batch_size = held_out, batch_size
        self.reference, self.adapter_is_ratio = reference, adapter_is_ratio
        self.best = best

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        data = train_dataset if train_dataset is not None else self.train_dataset
        return UpdateSampler(data.lengths, self.batch_size, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's mean over the batch's units."""
        values = self.token_values(model, inputs)
        loss = self.spec.loss(values, inputs["mask"], inputs["correct"], self.beta, self.margin).mean()
        if not bool(loss.isfinite()):
            raise UserError(
                f"the loss is {float(loss.detach())} at step {self.state.global_step}; lower learning_rate, and check the "
                "checkpoint (what was saved before is kept)"
            )
        return (loss, {"values": values}) if return_outputs else loss

    def token_values(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Values of response tokens before beta: log-ratios, or Q-RM's Z. float32, shape [rows, t], 0 in padding."""
        where = {name: inputs[name] for name in ("input_ids", "rows", "columns")}
        flat = model(**where)["values"].float()
        if self.spec.kind == "implicit":
            flat = flat - (inputs["reference"] if "reference" in inputs else self._reference_logprobs(model, where))
        mask = inputs["mask"]
        return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

    @torch.no_grad()
    def _reference_logprobs(self, model: Any, where: dict[str, Tensor]) -> Tensor:
        if self.adapter_is_ratio:
            was_training = model.training
            model.eval()
            off: AbstractContextManager[Any] = self.accelerator.unwrap_model(model).disable_adapter()
            with off:
                flat = model(**where)["values"].float()
            model.train(was_training)
            return flat
        assert self.reference is not None
        lengths = torch.bincount(where["rows"], minlength=len(where["input_ids"])).tolist()
        ends = [0] * len(lengths)
        for row, column in zip(where["rows"].tolist(), where["columns"].tolist(), strict=True):
            ends[row] = column + 1
        ids = where["input_ids"].cpu().numpy()
        with self.accelerator.autocast():
            found = self.reference.score(
                [ids[i, :end] for i, end in enumerate(ends)],
                [end - n for end, n in zip(ends, lengths, strict=True)],
                frozenset({"logprob"}),
            )
        flat = np.concatenate([one.logprob for one in found if one.logprob is not None])
        return torch.from_numpy(flat).float().to(where["rows"].device)

    @torch.no_grad()
    def held_out_values(self) -> list[NDArray[np.float64]]:
        """Token values of every held-out response. Each process computes all of them, so that any sharding stays in step."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        order = sorted(range(len(self.held_out)), key=lambda i: -self.held_out.lengths[i])
        found: dict[int, NDArray[np.float64]] = {}
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            inputs = self._prepare_inputs(collate([self.held_out[i] for i in indices]))
            values = self.token_values(model, inputs).double().cpu().numpy()
            counts = inputs["mask"].sum(dim=1).tolist()
            for row, count in enumerate(counts):
                found[2 * indices[row // 2] + row % 2] = values[row, :count]
        model.train(was_training)
        return [found[i] for i in range(2 * len(self.held_out))]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Metrics of the held-out pairs (`held_out_metrics`), each under ``eval_`` and its name; keeps the best weights."""
        found = held_out_metrics(self.held_out_values(), self.spec, self.beta, self.margin)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._keep_best(found["loss"])
        return metrics

    def _keep_best(self, loss: float) -> None:
        mark = self.best / BEST_NAME
        before = json.loads(mark.read_text(encoding="utf-8"))["loss"] if mark.exists() else float("inf")
        if self.state.global_step == 0 or loss >= before:
            return
        self.accelerator.wait_for_everyone()  # all have read the mark
        self.save_model(str(self.best))
        if self.is_world_process_zero():
            write_atomically(mark, json.dumps({"step": self.state.global_step, "loss": loss}))
        self.accelerator.wait_for_everyone()
