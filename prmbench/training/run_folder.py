"""The output folder of a training run: who holds it, and the saved state that a killed run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.engines.processes import Share
from prmbench.errors import UserError
from prmbench.results.store import FolderLock, write_atomically

if TYPE_CHECKING:
    pass
from prmbench.training.recipes.optimisation import Optimisation


def refuse_own_folder(recipe: Optimisation, *sources: Path) -> None:
    """Raise UserError when the output would overwrite a checkpoint that the run reads."""
    output = Path(recipe.output).resolve()
    for source in sources:
        if source.resolve() in (output, output / "last"):
            raise UserError(f"output {recipe.output}: holds {source}, which this run starts from; set another output")


def claim(states: Path, recipe: Optimisation, hashes: dict[str, str]) -> None:
    """Make the folder of saved states this run's.

    Args:
        hashes: of what the recipe only names: data, weights.

    Raises:
        UserError: it holds a saved state of a run of another recipe, other data or other weights.
    """
    mark = states / "recipe.json"
    wanted = json.dumps({"recipe": recipe.model_dump(), "hashes": hashes}, indent=2)
    if mark.exists() and mark.read_text(encoding="utf-8") != wanted:
        if last_state(states) is not None:
            raise UserError(
                f"{states}: holds the state of a run of another recipe, other data or other weights; delete it, or set "
                "another output"
            )
        shutil.rmtree(states)  # that run saved nothing to go on from
    states.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, wanted)


@contextmanager
def hold_output(recipe: Optimisation, share: Share) -> Iterator[None]:
    """Keep a run's output folder to this run: made where it is not there, held by the first process.

    Raises:
        UserError: another run writes there, or it cannot be written.
    """
    output = Path(recipe.output)
    lock = FolderLock(output, "set another output")
    if share.main:
        try:
            output.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise UserError(f"output {output}: cannot be written ({error.strerror}); set another output") from None
    try:
        yield
    finally:
        lock.release()
        if share.main and output.is_dir() and {path.name for path in output.iterdir()} <= {".lock"}:
            shutil.rmtree(output)  # a start that failed leaves nothing


def last_state(states: Path) -> str | None:
    """The last state saved whole: the trainer writes its own record last, so a kill while saving leaves none."""
    whole = [path.parent for path in states.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None
