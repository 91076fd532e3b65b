"""Any recipe of a reward model: its objective says whether it is an explicit PRM, which is trained on labelled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.training.prm.recipe import PRMRecipe, is_explicit
from prmbench.training.recipes.read import read_fields
from prmbench.training.rm.recipe import RMRecipe

if TYPE_CHECKING:
    from prmbench.training.prm.run import PRMResult
    from prmbench.training.rm.run import RMResult


def recipe_type(path: str | Path, overrides: Sequence[str] = ()) -> type[RMRecipe | PRMRecipe]:
    """Find the class that a recipe of a reward model is of.

    Args:
        path: The recipe, as `prmbench.training.recipes.read.load_recipe` takes it.
        overrides: What goes over the file, likewise.

    Raises:
        UserError: There is no such file, or its YAML is broken.
    """
    return PRMRecipe if is_explicit(read_fields(path, overrides)[1].get("objective")) else RMRecipe


def train_from(
    recipe: RMRecipe | PRMRecipe, *, log: Callable[[str], None] = lambda _: None
) -> RMResult | PRMResult | None:
    """Train a reward model of either sort.

    Args:
        recipe: The recipe.
        log: Called with a line for every stage and measurement.

    Returns:
        What the run did; None in processes other than the first.

    Raises:
        UserError: A model, a data file or a setting is wrong, and nothing has been trained; or the loss is no number.
    """
    # A run imports more than a recipe; a dry run does without.
    if isinstance(recipe, PRMRecipe):
        from prmbench.training.prm.run import train_prm

        return train_prm(recipe, log=log)
    from prmbench.training.rm.run import train_rm

    return train_rm(recipe, log=log)
