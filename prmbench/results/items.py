"""Items: the per-trace scores behind an entry, one JSON line each; ids, labels and scores, never problem text."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import check_fields, read_records
from prmbench.errors import UserError
from prmbench.results.schema import ENTRY_NAME, EntryType, Items, Provenance, read_entry


@dataclass(frozen=True)
class TraceItem:
    """Scores of one trace.

    Attributes:
        subset, id, generator, label: as in the trace. digest: sha256 of the trace (`prmbench.data.traces.Trace.digest`).
        n_tokens: int64, shape [n_steps]. sums, scores, votes: as in `prmbench.reward_models.base.StepScores`; one is not None.
    """

    subset: str
    id: str
    generator: str
    label: int
    digest: str
    n_tokens: NDArray[np.int64]
    sums: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None
    votes: tuple[int | None, ...] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names an item within an entry."""
        return self.subset, self.id

    def line(self) -> str:
        """One JSON line, numbers exact (a float64 survives the round trip)."""
        fields: dict[str, Any] = {
            "subset": self.subset,
            "id": self.id,
            "generator": self.generator,
            "label": self.label,
            "digest": self.digest,
            "n_tokens": self.n_tokens.tolist(),
        }
        if self.votes is not None:
            fields["votes"] = list(self.votes)
        else:
            values = self.sums if self.sums is not None else self.scores
            assert values is not None
            fields["sums" if self.sums is not None else "scores"] = values.tolist()
        return json.dumps(fields, ensure_ascii=True) + "\n"


ITEM_SORTS = ("sums", "scores", "votes")


def parse_item(place: str, fields: Any) -> TraceItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    kinds = {"subset": str, "id": str, "generator": str, "label": int, "digest": str, "n_tokens": list}
    check_fields(place, fields, kinds, "an item")
    present = [name for name in ITEM_SORTS if name in fields]
    if len(present) != 1:
        raise UserError(f"{place}: expected one of 'sums', 'scores' and 'votes', found {present or 'none'}")
    name = present[0]
    n_tokens, values = fields["n_tokens"], fields[name]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**53 for n in n_tokens):
        raise UserError(f"{place}: field 'n_tokens' must hold whole numbers, 0 or more")
    if name == "votes":
        return _voted(place, fields)
    if not isinstance(values, list) or not values or len(values) != len(n_tokens):
        raise UserError(f"{place}: fields 'n_tokens' and '{name}' must be lists of one length, one number a step")
    if not all(
        isinstance(v, float) or (isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**53) for v in values
    ):
        raise UserError(f"{place}: field '{name}' must hold numbers")
    for step, value in enumerate(values):
        if math.isnan(value):
            raise UserError(
                f"{place}: item '{fields['id']}' has a NaN score at step {step}; the model or its items are broken"
            )
    return _item(place, fields, **{name: np.array(values, dtype=np.float64)})


def _voted(place: str, fields: dict[str, Any]) -> TraceItem:
    votes = fields["votes"]
    if not isinstance(votes, list) or not votes or not fields["n_tokens"]:
        raise UserError(
            f"{place}: field 'votes' must be a list of at least one vote, 'n_tokens' one of at least one step"
        )
    if not all(v is None or (isinstance(v, int) and not isinstance(v, bool)) for v in votes):
        raise UserError(f"{place}: field 'votes' must hold whole numbers, or null for a text without a verdict")
    return _item(place, fields, votes=tuple(votes))


def _item(place: str, fields: dict[str, Any], **values: Any) -> TraceItem:
    n_steps = len(fields["n_tokens"])
    if not -1 <= fields["label"] < n_steps:
        raise UserError(f"{place}: field 'label' is {fields['label']}; expected -1 to {n_steps - 1}")
    named = {name: fields[name] for name in ("subset", "id", "generator", "label", "digest")}
    return TraceItem(**named, n_tokens=np.array(fields["n_tokens"], dtype=np.int64), **values)


Item = TypeVar("Item")


def read_described(folder: Path, described: Items | None, read: Callable[[Path], list[Item]]) -> list[Item]:
    """Read the items that an entry in this folder describes.

    Raises:
        UserError: it describes none, they are not there, or the file is another than the entry says.
    """
    if described is None:
        raise UserError(f"{folder}: the entry has no items to compute from")
    path = folder / Path(described.file).name
    if not path.exists():
        raise UserError(f"{path}: no such items file; it belongs beside the entry")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != described.sha256:
        raise UserError(
            f"{path}: is not the file that the entry beside it describes (sha256 {found[:12]}..., expected "
            f"{described.sha256[:12]}...); restore it"
        )
    return read(path)


def check_answers(path: Path, items: Collection[Any]) -> None:
    """Raise UserError where an answer's class is not one that its problem's completions can have: there are no more than these.

    Args:
        items: each with subset, id, sample and answer.
    """
    counts = Counter((item.subset, item.id) for item in items)
    for item in items:
        if item.answer >= (n := counts[item.subset, item.id]):
            raise UserError(
                f"{path}: sample {item.sample} of '{item.id}': field 'answer' is {item.answer:,}; expected one below the problem's "
                f"{n:,} completions, or -1"
            )


def statistics_of(provenance: Provenance | None, n_resamples: int | None, seed: int | None) -> dict[str, int]:
    """``n_resamples`` and ``seed`` of figures that are computed again: as given, else as in the entry, else the defaults."""
    before = {"n_resamples": 10_000, "seed": 0}
    if provenance is not None:
        before = {"n_resamples": provenance.n_resamples, "seed": provenance.seed}
    given = {"n_resamples": n_resamples, "seed": seed}
    return before | {name: value for name, value in given.items() if value is not None}


def read_items(path: Path) -> list[TraceItem]:
    """Read an items file.

    Raises:
        UserError: broken line, wrong field, the same item twice, or items of several sorts (sums, scores, votes).
    """
    items: dict[tuple[str, str], TraceItem] = {}
    sorts: set[str] = set()
    for place, fields in read_records(path):
        item = parse_item(place, fields)
        if item.key in items:
            raise UserError(f"{place}: item '{item.id}' of {item.subset} is there twice; delete one of the lines")
        items[item.key] = item
        sorts |= {name for name in ITEM_SORTS if getattr(item, name) is not None}
        if len(sorts) > 1:
            raise UserError(
                f"{place}: items before it have another of 'sums', 'scores' and 'votes'; items of two runs?"
            )
    return list(items.values())


def recompute_entry(
    path: Path,
    entry_type: type[EntryType],
    read: Callable[[Path], list[Item]],
    compute: Callable[..., Any],
    *,
    n_resamples: int | None,
    seed: int | None,
) -> EntryType:
    """An entry with every metric computed again from its items.

    Args:
        path: the run's folder, or a file in it. compute: metrics of items and the old entry, with ``n_resamples`` and ``seed``.

    Raises:
        UserError: no entry, or items other than those it describes.
    """
    folder = path if path.is_dir() else path.parent
    old: Any = read_entry(folder / ENTRY_NAME, entry_type)
    items = read_described(folder, old.items, read)
    statistics = statistics_of(old.provenance, n_resamples, seed)
    provenance = old.provenance and old.provenance.model_copy(update=statistics)
    again: EntryType = old.model_copy(update={"metrics": compute(items, old, **statistics), "provenance": provenance})
    return again
