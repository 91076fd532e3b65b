"""The output folder of a training run: who holds it, and the saved state that a killed run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from prmbench.data.records import file_hash, read_json, read_whole
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.engines.processes import Share
from prmbench.errors import UserError, first_line
from prmbench.results.provenance import versions
from prmbench.results.store import FolderLock, write_atomically
from prmbench.training.model.launch import check_launch
from prmbench.training.recipes.optimisation import WATCHING, Optimisation

RecipeType = TypeVar("RecipeType", bound=Optimisation)

STATE_MARK = "whole.json"


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
        UserError: Another run writes there, or it cannot be written; or the processes were launched in a way that cannot train.
    """
    check_launch()
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


@dataclass(frozen=True)
class TrainingRun(Generic[RecipeType]):
    """What every stage of a run needs.

    Attributes:
        recipe: The recipe.
        folder: Checkpoint to start from.
        encoder: Encodes with the tokenizer of the checkpoint to start from.
        hashes: Hashes of what the recipe only names: data and weights, by what they are of.
        share: This process among those of the run.
        log: Called with a line for every stage and measurement; it does nothing in processes other than the first.
    """

    recipe: RecipeType
    folder: Path
    encoder: TraceEncoder
    hashes: dict[str, str]
    share: Share
    log: Callable[[str], None]

    @property
    def output(self) -> Path:
        """Folder that the checkpoint is written into."""
        return Path(self.recipe.output)

    @property
    def states(self) -> Path:
        """Folder of saved states."""
        return self.output / "trainer"

    def report(self, name: str, result: str, work: Callable[[str | None], dict[str, Any]]) -> dict[str, Any] | None:
        """Do the run's work unless it is done, and write its report. All processes must call it.

        Args:
            name: Name of the report's file.
            result: What the report calls the hash of the weights that the run writes.
            work: Trains, from the saved state that it is given or from the start, and writes the checkpoint. Returns the steps, the
                history and all else that the report holds.

        Returns:
            The report; None in processes other than the first.

        Raises:
            UserError: See `open_states`.
        """
        report = self._finished(name, result)
        if report is None:
            last = open_states(self.states, self.recipe, self.hashes, self.share, self.log)
            found = work(last)
            if not self.share.main:
                return None
            hashes = {**self.hashes, result: checkpoint_hash(self.output, self.folder), **found.pop("hashes", {})}
            report = {"recipe": self.recipe.model_dump(), "hashes": hashes, "versions": versions(), **found}
            write_atomically(self.output / name, json.dumps(report, indent=2) + "\n")
        if self.share.main:
            shutil.rmtree(self.states, ignore_errors=True)
        return report if self.share.main else None

    def _finished(self, name: str, result: str) -> dict[str, Any] | None:
        """The report of the same run, where it is finished already."""
        try:
            found = read_json(self.output / name)
            kept = found["hashes"]
            recipe = {key: value for key, value in found["recipe"].items() if key not in WATCHING}
            same = recipe == self.recipe.decisive() and kept | self.hashes == kept
            if not same or checkpoint_hash(self.output, self.folder) != kept[result]:
                return None
        except (UserError, KeyError, TypeError, AttributeError):
            return None  # the report is not that of a finished run
        self.log(f"{self.output}: the run is finished; nothing is left to do")
        return found


def open_states(
    states: Path, recipe: Optimisation, hashes: dict[str, str], share: Share, log: Callable[[str], None]
) -> str | None:
    """Make a folder of saved states this run's, and find the state to go on from. All processes must call it.

    Args:
        states: The folder.
        recipe: The recipe.
        hashes: Hashes of what the recipe only names: data and weights, by what they are of.
        share: This process among those of the run.
        log: Called with a line that says the state to go on from, and with one for each damaged state.

    Returns:
        The last state that is whole; None for a run that starts.

    Raises:
        UserError: The folder holds a saved state of a run of another recipe, other data or other weights; or states were saved,
            and all are damaged.
    """
    chosen = states / "resume"
    if share.main:
        claim(states, recipe, hashes)
        write_atomically(chosen, last_state(states, log) or "")
    share.wait()
    last = read_whole(chosen).decode() or None
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
    wanted = json.dumps({"recipe": recipe.decisive(), "hashes": hashes}, indent=2)
    if mark.exists() and read_whole(mark) != wanted.encode():
        if any(state.joinpath("trainer_state.json").exists() for state in states_in(states)):
            raise UserError(
                f"{states}: holds the state of a run of another recipe, other data or other weights; delete it, or set "
                "another output"
            )
        shutil.rmtree(states)  # that run saved nothing to go on from
    states.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, wanted)


def states_in(states: Path) -> list[Path]:
    """List the saved states of a run, whole or not, the last one first.

    Args:
        states: Folder of saved states.
    """
    found = [path for path in states.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: -int(path.name.partition("-")[2]))


def mark_whole(state: Path) -> None:
    """Write into a saved state the sizes and hashes of its files; a state without them was not written to its end.

    Args:
        state: Folder of the state.
    """
    files = {str(path.relative_to(state)): _described(path) for path in sorted(state.rglob("*")) if path.is_file()}
    write_atomically(state / STATE_MARK, json.dumps(files, indent=2) + "\n")


def last_state(states: Path, log: Callable[[str], None] = lambda _: None) -> str | None:
    """Find the last state that was saved whole and is as it was saved.

    Args:
        states: Folder of saved states.
        log: Called with a line for each damaged state.

    Returns:
        The state's folder; None where none was saved whole.

    Raises:
        UserError: States were saved whole, and all are damaged.
    """
    damaged = []
    for state in states_in(states):
        if not (state / STATE_MARK).exists():
            continue  # it was not saved to its end
        problem = _damage(state)
        if problem is None:
            return str(state)
        damaged.append(f"{state}: is damaged ({problem})")
        log(f"{damaged[-1]}; going back to the state before")
    if damaged:
        raise UserError(
            f"{damaged[-1]}, and there is no other state; delete {states} to begin again, or set another output"
        )
    return None


def _damage(state: Path) -> str | None:
    """What is wrong with a saved state; None where nothing is."""
    try:
        files = read_json(state / STATE_MARK)
    except UserError as error:
        return str(error)
    for name, wanted in files.items():
        path = state / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"] or _described(path) != wanted:
            return f"{name} is not as it was saved"
    return None


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what libraries raise when a folder cannot be written, as on a full disk, into one sentence.

    Args:
        place: The folder that is written into.

    Raises:
        UserError: It cannot be written.
    """
    try:
        yield
    except Exception as error:
        of_libraries = ("os error", "PytorchStreamWriter", "inline_container")
        if not isinstance(error, OSError) and not any(mark in str(error) for mark in of_libraries):
            raise
        said = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{place}: cannot be written ({said}); make room, and run the same again: it goes on from the last saved state"
        ) from error
