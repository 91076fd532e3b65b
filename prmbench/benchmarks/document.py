"""The fields of entries and items as Markdown, from the schema itself, so that the page cannot fall behind."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, get_args

from pydantic import BaseModel

from prmbench.benchmarks.base import Benchmark
from prmbench.results.schema import Entry

ITEM_TYPES = {
    "Count": "int",
    "Counts": "list[int]",
    "Number": "float",
    "Numbers": "list[float]",
    "Real": "float",
    "RolloutEnd": "str",
    "AnswerClass": "int",
    "Positive": "int",
    "Share": "float",
    "Verdict": "str",
}
"""What the types of items are in JSON."""


def entry_fields(benchmarks: list[Benchmark]) -> str:
    """Describe entries and items: one table for the entry, one for each record inside it, and one for each sort of item.

    Args:
        benchmarks: The benchmarks to describe.
    """
    lines: list[str] = []
    seen: set[type[BaseModel]] = set()
    queue: list[type[BaseModel]] = [Entry[BaseModel], *(one.metrics_type for one in benchmarks)]
    while queue:
        model = queue.pop(0)
        if model in seen or model is BaseModel:
            continue
        seen.add(model)
        described = model.__pydantic_generic_metadata__["origin"] or model
        first = (described.__doc__ or "").strip().split("\n")[0]
        lines += [
            f"### {model.__name__.partition('[')[0]}",
            "",
            first,
            "",
            "| field | type | meaning |",
            "|---|---|---|",
        ]
        for name, field in model.model_fields.items():
            inner = models_in(field.annotation)
            queue += inner
            meaning = field.description or " / ".join((m.__doc__ or "").strip().split("\n")[0] for m in inner)
            lines.append(f"| `{name}` | {_type(field.annotation)} | {meaning} |")
        lines.append("")
    for benchmark in benchmarks:
        for item in benchmark.item_types:
            lines += _item_fields(benchmark.name, item)
    return "\n".join(lines)


def _item_fields(name: str, item: type[Any]) -> list[str]:
    """The table of a benchmark's items, from the docstring of their class."""
    text = inspect.getdoc(item) or ""
    meanings = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text.partition("Attributes:")[2], flags=re.MULTILINE))
    rows = [
        f"| `{one.name}` | {_type(one.type)} | {' '.join(meanings.get(one.name, '').split())} |"
        for one in dataclasses.fields(item)
    ]
    head = [f"### Items of {name}: {item.__name__}", "", text.split("\n")[0], ""]
    return [*head, "| field | type | meaning |", "|---|---|---|", *rows, ""]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """List the pydantic models that a type holds, itself among them.

    Args:
        annotation: The type.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _type(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not get_args(annotation)
    text = annotation.__name__ if plain else str(annotation)
    text = re.sub(r"Annotated\[(.*), (?:Field|Strict)\(.*\)\]", r"\1", text)
    text = re.sub(r"\bprmbench\.[a-z_.]+\.|typing\.|pydantic\.main\.", "", text).replace("NoneType", "None")
    for name, plain_name in ITEM_TYPES.items():
        text = re.sub(rf"\b{name}\b", plain_name, text)
    return "`" + text.partition("[prmbench")[0].replace("|", "or") + "`"
