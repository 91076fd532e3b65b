"""The trainer of reward models: its updates are all full, and it knows the data that are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np
from torch.utils.data import Sampler

from prmbench.training.model.trainer import GuardedTrainer
from prmbench.training.recipes.measured import MeasuredRecipe

RecipeType = TypeVar("RecipeType", bound=MeasuredRecipe)
HeldOut = TypeVar("HeldOut", bound=Sized)


class UpdateSampler(Sampler[int]):
    """Shuffles, cuts into updates, and sorts by length within each.

    So micro-batches hold records of similar length, yet what an update learns from is a plain random draw, the same whatever
    the micro-batch size and the number of processes. Every update is full: the few records left over at an epoch's
    end are in another epoch's draw.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Make a sampler for the first epoch.

        Args:
            lengths: Tokens of each record.
            batch_size: Records of an update.
            seed: Seed of the order.
        """
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch.

        Args:
            epoch: The epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
        for start in range(0, len(self), self.batch_size):
            update = order[start : start + self.batch_size]
            yield from sorted(update.tolist(), key=lambda i: (-self.lengths[i], i))


class MeasuredTrainer(GuardedTrainer, Generic[RecipeType, HeldOut]):
    """Trains with full updates, and keeps the data that are held out for the class after it to measure."""

    def __init__(self, recipe: RecipeType, held_out: HeldOut, **arguments: Any) -> None:
        """Make the trainer.

        Args:
            recipe: Says the records of an update.
            held_out: What `evaluate` measures; may be empty.
            **arguments: Arguments of `transformers.Trainer`. The data to train on have ``lengths``, the tokens of each record.
        """
        # transformers wants data to evaluate where a schedule is set; ours are not its to read.
        super().__init__(eval_dataset=[] if len(held_out) else None, **arguments)
        self.recipe, self.held_out = recipe, held_out

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        data = train_dataset if train_dataset is not None else self.train_dataset
        return UpdateSampler(data.lengths, self.recipe.batch_size, self.args.seed)
