"""Items: what an entry is computed from, one JSON line each. They hold ids, labels and scores, and never a problem's text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, ValidationError

from prmbench.data.records import LARGE, file_hash, number_wanted, shown
from prmbench.errors import UserError, printable, shortened
from prmbench.results.schema import Items

ITEM_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True)
"""For ``pydantic.dataclasses.dataclass(frozen=True, config=ITEM_CONFIG)``: an item's fields are checked whenever one is made."""


def _is_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _numbers(*, whole: bool) -> Callable[[Any], Any]:
    def check(values: Any) -> Any:
        if isinstance(values, np.ndarray):
            return values
        listed = values if isinstance(values, list) else [None]
        # JSON has whole numbers where a float has no fraction; a float64 does not hold larger ones exactly.
        wrong = [v for v in listed if not _is_number(v, whole=whole) or (isinstance(v, int) and not abs(v) < 2**53)]
        if wrong or (whole and min(listed, default=0) < 0):
            raise ValueError(f"must hold {'whole numbers, 0 or more' if whole else 'numbers'}")
        return np.array(values, dtype=np.int64 if whole else np.float64)

    return check


def _number(low: float, *, whole: bool = False, infinite: bool = False) -> Any:
    def check(value: Any) -> Any:
        right = _is_number(value, whole=whole)
        if not right or not (low <= value < LARGE or (infinite and value in (np.inf, -np.inf))):
            raise ValueError(f"is {shortened(shown(value))}; expected {number_wanted(low, whole=whole)}")
        return int(value) if whole else float(value)

    return BeforeValidator(check)


Counts = Annotated[NDArray[np.int64], BeforeValidator(_numbers(whole=True))]
"""Whole numbers, 0 or more, as an int64 array; a JSON list in the file."""
Numbers = Annotated[NDArray[np.float64], BeforeValidator(_numbers(whole=False))]
"""Numbers, infinities and NaN among them, as a float64 array; a JSON list in the file."""
Count = Annotated[int, _number(0, whole=True)]
"""A whole number, 0 or more."""
Positive = Annotated[int, _number(1, whole=True)]
"""A whole number, 1 or more."""
AnswerClass = Annotated[int, _number(-1, whole=True)]
"""The class of an answer among its problem's, -1: none."""
Number = Annotated[float, _number(-LARGE)]
"""A finite number; a JSON number without a fraction is taken as well."""
Share = Annotated[float, _number(0)]
"""A finite number, 0 or more."""
Real = Annotated[float, _number(-LARGE, infinite=True)]
"""A number, or an infinity."""


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
    loc = list(first["loc"])
    while len(loc) > 1 and isinstance(loc[-1], int):  # a place in a list
        loc.pop()
    where = ".".join(printable(str(part)) for part in loc)
    message = printable(first["msg"])
    if first["type"] == "missing":
        return f"field '{where}' is missing"
    if first["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        return f"field '{where}' {message}" if where else message
    return f"field '{where}' is {shortened(shown(first['input']))}; expected {message.removeprefix('Input should be ')}"


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
    found = file_hash(path)
    if found != described.sha256:
        raise UserError(
            f"{path}: is not the file that the entry beside it describes (sha256 {found[:12]}..., expected "
            f"{described.sha256[:12]}...); restore it"
        )
    return read(path)
