"""The entry's fields as Markdown, from the schema itself, so that the page cannot fall behind."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from prmbench.benchmarks.best_of_n.metrics import BestOfNMetrics
from prmbench.benchmarks.policy.run import PolicyMetrics
from prmbench.benchmarks.processbench.run import ProcessBenchEntry


def entry_fields() -> str:
    """One table for the entry and one for each record inside it."""
    lines: list[str] = []
    seen: set[type[BaseModel]] = set()
    queue: list[type[BaseModel]] = [ProcessBenchEntry, PolicyMetrics, BestOfNMetrics]
    while queue:
        model = queue.pop(0)
        if model in seen:
            continue
        seen.add(model)
        title = model.__name__.partition("[")[0]
        described = model.__pydantic_generic_metadata__["origin"] or model
        first = (described.__doc__ or "").strip().split("\n")[0]
        lines += [f"### {title}", "", first, "", "| field | type | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            inner = _models(field.annotation)
            queue += inner
            meaning = field.description or " / ".join((m.__doc__ or "").strip().split("\n")[0] for m in inner)
            lines.append(f"| `{name}` | {_type(field.annotation)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models(part)]


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    text = re.sub(r"\bprmbench\.[a-z_.]+\.|typing\.", "", text).replace("NoneType", "None")
    return "`" + text.partition("[prmbench")[0].replace("|", "or") + "`"
