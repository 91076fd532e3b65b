"""Items: what an entry is computed from, one JSON line each. They hold ids, labels and scores, and never a problem's text."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from prmbench.data.records import LARGE, shown
from prmbench.errors import UserError, printable, shortened
from prmbench.results.schema import Items

ITEM_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True)
"""For ``pydantic.dataclasses.dataclass(frozen=True, config=ITEM_CONFIG)``: an item's fields are checked whenever one is made."""


def _numbers(whole: bool) -> Callable[[Any], Any]:
    def check(values: Any) -> Any:
        if isinstance(values, np.ndarray):
            return values
        if not isinstance(values, list):
            raise ValueError(f"{shown(values)} is no list of numbers")
        # JSON has whole numbers where a float has no fraction; numbers beyond these lose digits or overflow.
        kinds = (int,) if whole else (int, float)
        for value in values:
            finite = type(value) in kinds and (-LARGE < value < LARGE or value in (np.inf, -np.inf) or value != value)
            if not finite or (whole and value < 0):
                raise ValueError(
                    f"{shown(value)} is not a {'whole ' if whole else ''}number {'from 0 to' if whole else 'below'} {LARGE:g}"
                )
        return np.array(values, dtype=np.int64 if whole else np.float64)

    return check


Counts = Annotated[NDArray[np.int64], BeforeValidator(_numbers(whole=True))]
"""Whole numbers, 0 or more, as an int64 array; a JSON list in the file."""
Numbers = Annotated[NDArray[np.float64], BeforeValidator(_numbers(whole=False))]
"""Numbers, infinities and NaN among them, as a float64 array; a JSON list in the file."""


def _real(value: Any) -> Any:
    if type(value) not in (int, float) or not (-LARGE < value < LARGE or value in (np.inf, -np.inf)):
        raise ValueError(f"{shown(value)} is not a number below {LARGE:g}")
    return float(value)


Real = Annotated[float, BeforeValidator(_real)]
"""A number, or an infinity."""
Count = Annotated[int, Field(ge=0, lt=LARGE)]
"""A whole number, 0 or more."""
Number = Annotated[float, BeforeValidator(lambda v: float(v) if type(v) is int else v), Field(gt=-LARGE, lt=LARGE)]
"""A finite number; a JSON number without a fraction is taken as well."""


class Item:
    """Base of all items, which are frozen pydantic dataclasses with at least the fields below.

    Attributes:
        subset: The part of the data set that the item belongs to.
        id: The id of the item's source (a trace, a problem) within the subset.
        digest: sha256 (hex) of the source.
    """

    subset: str
    id: str
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """What names the item within a run."""
        return self.subset, self.id

    def line(self) -> str:
        """The item as one JSON line, newline included.

        Numbers are exact: a float64 survives the round trip. A field that is None and None by default is left out.
        """
        fields = {}
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                fields[one.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return json.dumps(fields, ensure_ascii=True) + "\n"


class SampleItem(Item):
    """Base of items of which a problem has several, one a sampled completion.

    Attributes:
        sample: The number of the completion among its problem's, from 0.
    """

    sample: int

    @property
    def key(self) -> tuple[str, str]:
        """What names the item within a run."""
        return self.subset, f"{self.id}/{self.sample}"


ItemType = TypeVar("ItemType")


def make_item(item_type: type[ItemType], place: str, fields: Any) -> ItemType:
    """Make an item of a JSON value.

    Args:
        item_type: The pydantic dataclass of the items.
        place: Where the value stands, for errors: a file and a line.
        fields: The JSON value. Keys that the item does not know are passed over.

    Returns:
        The item.

    Raises:
        UserError: A missing or wrong field; the place, the field, and what was found are named.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{place}: is a JSON {type(fields).__name__}; expected an item (an object)")
    known = {one.name for one in dataclasses.fields(item_type)}  # type: ignore[arg-type]
    try:
        return item_type(**{name: value for name, value in fields.items() if name in known})
    except ValidationError as error:
        raise UserError(f"{place}: {_describe(error)}") from None


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = printable(first["msg"])
    if first["type"] == "missing":
        return f"field '{where}' is missing"
    if first["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        return f"field '{where}': {message}" if where else message
    expected = message.removeprefix("Input should be ")
    return f"field '{where}' is {shortened(shown(first['input']))}; expected {expected}"


def read_described(folder: Path, described: Items | None, read: Callable[[Path], list[ItemType]]) -> list[ItemType]:
    """Read the items that an entry in a folder describes.

    Args:
        folder: The entry's folder.
        described: What the entry says of its items.
        read: Reads an items file.

    Returns:
        The items.

    Raises:
        UserError: It describes none, they are not there, or the file is another than the entry says.
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
