"""Every key of every recipe as Markdown, from the recipes themselves, so that the page cannot fall behind."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from prmbench.benchmarks.document import models_in
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.recipes.optimisation import Optimisation
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.sft.recipe import SFTRecipe

RECIPES: tuple[tuple[str, type[Optimisation]], ...] = (
    ("Supervised fine-tuning: `train sft`", SFTRecipe),
    ("Reward models: `train rm`", RMRecipe),
    ("Explicit PRMs: `train rm` with an objective of steps", PRMRecipe),
    ("Policy optimisation: `train rl`", RLRecipe),
)


def describe_recipe_keys() -> str:
    """Describe every key: those of all recipes, those of each recipe, and those inside each key that holds others."""
    common = [
        name
        for name in Optimisation.model_fields
        if len({_row(name, one.model_fields[name]) for _, one in RECIPES}) == 1
    ]
    lines = [*_table("Every recipe", [_row(name, Optimisation.model_fields[name]) for name in common])]
    inner: dict[type[BaseModel], str] = {}
    for title, recipe in RECIPES:
        own = [name for name in recipe.model_fields if name not in common]
        lines += _table(title, [_row(name, recipe.model_fields[name]) for name in own])
    for _, recipe in RECIPES:
        for name, field in recipe.model_fields.items():
            for model in models_in(field.annotation):
                inner.setdefault(model, name)
    for model, name in inner.items():
        lines += _table(f"Inside `{name}`", [_row(key, field) for key, field in model.model_fields.items()])
    return "\n".join(lines)


def _table(title: str, rows: list[str]) -> list[str]:
    return [f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {meaning}{_bounds(field)} |"


def _bounds(field: FieldInfo) -> str:
    """The limits of a number, in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{words[key]} {getattr(rule, key):,}" for rule in field.metadata for key in words if hasattr(rule, key)]
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value is PydanticUndefined:
        return "its defaults"
    return f"`{json.dumps(value, default=str)}`"


def _type(annotation: Any) -> str:
    if models_in(annotation):
        return "keys"
    plain = isinstance(annotation, type) and not get_args(annotation)
    text = annotation.__name__ if plain else str(annotation)
    text = re.sub(r"typing\.|collections\.abc\.", "", text).replace("NoneType", "null").replace("None", "null")
    if text.startswith("Literal["):
        return ", ".join(f"`{one}`" for one in get_args(annotation))
    for theirs, ours in (("str", "text"), ("int", "whole number"), ("float", "number"), ("bool", "true or false")):
        text = re.sub(rf"\b{theirs}\b", ours, text)
    text = re.sub(r"tuple\[([^\]]*)\]", r"list of \1", text)
    return text.replace(" | ", " or ").replace("list[", "list of ").replace("]", "")
