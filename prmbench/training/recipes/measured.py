"""What the recipes of reward models share: every update is full, and held-out data say which weights are the best."""

from __future__ import annotations

import math

from prmbench.errors import UserError
from prmbench.training.recipes.optimisation import Optimisation


class MeasuredRecipe(Optimisation):
    """A recipe of which every update is full.

    The keys of held-out data are each recipe's own: they count other things, and the order of keys says which run a state is of.
    """

    def updates(self, records: int) -> int:
        """Return the number of updates of a run; every one is full.

        Args:
            records: Number of records to train on: pairs, traces, or groups of traces.
        """
        return self.max_steps or max(1, math.ceil(self.epochs * (records // self.batch_size)))

    def check_enough(self, data: str, records: int, what: str, counts: str) -> None:
        """Refuse data that do not fill one update.

        Args:
            data: The data file.
            records: Number of records to train on.
            what: What they are, in the plural.
            counts: What the file holds, in words.

        Raises:
            UserError: There are fewer records than an update takes.
        """
        if records < self.batch_size:
            raise UserError(
                f"{data}: {records:,} {what} are left to train on, an update takes batch_size {self.batch_size}: "
                f"lower it or held_out ({counts})"
            )
