"""The output folder of a training run: who holds it, and the saved state that a killed run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prmbench.engines.processes import Share
from prmbench.errors import UserError
from prmbench.results.store import FolderLock, write_atomically
from prmbench.training.recipes.optimisation import Optimisation


def refuse_own_folder(recipe: Optimisation, *sources: Path) -> None:
    """Refuse an output folder that holds what the run reads.

    Args:
        recipe: The recipe, which names the output.
        *sources: Checkpoints that the run reads.

    Raises:
        UserError: The output would overwrite one of them.
    """
    output = Path(recipe.output).resolve()
    for source in sources:
        if source.resolve() in (output, output / "last"):
            raise UserError(f"output {recipe.output}: holds {source}, which this run starts from; set another output")


@contextmanager
def hold_output(recipe: Optimisation, share: Share) -> Iterator[None]:
    """Keep a run's output folder to this run: it is made where it is not there, and held by the first process.

    Args:
        recipe: The recipe, which names the output.
        share: This process among those of the run.

    Raises:
        UserError: Another run writes there, or it cannot be written.
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


def open_states(
    states: Path, recipe: Optimisation, hashes: dict[str, str], share: Share, log: Callable[[str], None]
) -> str | None:
    """Make a folder of saved states this run's, and find the state to go on from. All processes must call it.

    Args:
        states: The folder.
        recipe: The recipe.
        hashes: Hashes of what the recipe only names: data and weights, by what they are of.
        share: This process among those of the run.
        log: Called with a line that says the state to go on from.

    Returns:
        The state that was saved last; None for a run that starts.

    Raises:
        UserError: The folder holds a saved state of a run of another recipe, other data or other weights.
    """
    if share.main:
        claim(states, recipe, hashes)
    share.wait()
    last = last_state(states)
    if last is not None:
        log(f"going on from {last}")
    return last


def claim(states: Path, recipe: Optimisation, hashes: dict[str, str]) -> None:
    """Make a folder of saved states this run's.

    Args:
        states: The folder.
        recipe: The recipe.
        hashes: Hashes of what the recipe only names: data and weights, by what they are of.

    Raises:
        UserError: The folder holds a saved state of a run of another recipe, other data or other weights.
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


def last_state(states: Path) -> str | None:
    """Find the last state that was saved whole.

    The trainer writes its own record last, so a kill while it saves leaves none.

    Args:
        states: Folder of saved states.

    Returns:
        The state's folder; None where there is none.
    """
    whole = [path.parent for path in states.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None
