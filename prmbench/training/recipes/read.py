"""Recipes: one YAML file a run, checked before anything loads."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from prmbench.data.records import read_whole
from prmbench.errors import ArgumentError, UserError, nearest, nearest_path
from prmbench.resources import resource_folder

RecipeType = TypeVar("RecipeType", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake; by itself YAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See `yaml.SafeLoader`."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in names[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' stands twice; leave one out", key.start_mark
                )
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path, recipe_type: type[RecipeType], overrides: Sequence[str] = ()) -> RecipeType:
    """Read and check a recipe.

    Args:
        path: A YAML file. A name such as ``miniature/sft.yaml`` is also looked up in the installed ``training/``. The file's key
            ``extends`` names files, relative to it, whose keys it takes over: later ones over earlier ones, its own over all.
        recipe_type: The class of the recipe.
        overrides: Pairs ``a.b=value``, whose values are YAML; they go over the file.

    Returns:
        The recipe.

    Raises:
        ArgumentError: An override holds a key that is not known (the nearest is named), or a wrong value.
        UserError: There is no such file, its YAML is broken (line and column are named), or the same of its own keys and values.
    """
    file, fields = read_fields(path)
    changed = read_fields(path, overrides)[1] if overrides else fields
    try:
        return recipe_type.model_validate(changed)
    except ValidationError as error:
        described = _describe(error, recipe_type)
        if (wrong := _to_blame(error, overrides, fields, recipe_type)) is not None:
            raise ArgumentError("overrides", wrong, described) from None
        raise UserError(f"{file}: {described}") from None


def as_overrides(changes: Mapping[str, Any]) -> list[str]:
    """Write keys with values as overrides. A path or text keeps its characters, whatever they mean in YAML.

    Args:
        changes: Values by key, such as ``{"seed": 1, "evaluate.n": 8, "margin": None}``; what JSON does not know becomes text.
    """
    return [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]


def read_fields(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Read the keys and values of a recipe, unchecked.

    Args:
        path: See `load_recipe`.
        overrides: See `load_recipe`.

    Returns:
        The file, and its keys and values.

    Raises:
        UserError: There is no such file, or its YAML is broken.
    """
    file = Path(path)
    if not file.exists() and (resource_folder("training") / path).exists():
        file = resource_folder("training") / path
    if file.is_dir():
        raise UserError(f"{path}: is a folder; expected a recipe, a YAML file")
    if not file.is_file():
        near = nearest_path(file)
        raise UserError(
            f"{path}: no such recipe{near}; recipes are YAML files, ready ones are in {resource_folder('training')}"
        )
    fields = _read(file)
    for override in overrides:
        _set(fields, override)
    try:
        json.dumps(fields, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{file}: holds half of a surrogate pair, or keys that are no texts; expected plain YAML"
        ) from None
    return file, fields


def _to_blame(
    error: ValidationError, overrides: Sequence[str], fields: dict[str, Any], recipe_type: type[BaseModel]
) -> str | None:
    """Find the overrides that are wrong, where it is not the file.

    Args:
        error: What is wrong with the recipe.
        overrides: What went over the file.
        fields: The fields of the file alone.
        recipe_type: The class of the recipe.

    Returns:
        The override of the key that is wrong; all of them where a rule about several keys is broken that the file alone keeps; None
        where the file is to blame.
    """
    name = ".".join(str(part) for part in error.errors()[0]["loc"])
    for override in reversed(overrides):
        key = override.partition("=")[0]
        if name and f"{name}.".startswith(f"{key}."):
            return override
    if not overrides:
        return None
    try:
        recipe_type.model_validate(fields)
    except ValidationError:
        return None
    return " ".join(overrides)


def _read(file: Path, inside: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The fields of a recipe, with those of the files that it extends.

    Args:
        file: The recipe.
        inside: The files that extend this one.
    """
    try:
        own = yaml.load(read_whole(file, 1 << 20).decode(), _UniqueKeys)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UserError(f"{file}: is not text; expected YAML in UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also too many digits, deep nesting
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{where}: broken YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(own, dict):
        raise UserError(f"{file}: holds a {type(own).__name__}; expected keys and values")
    names = own.pop("extends", [])
    fields: dict[str, Any] = {}
    if not isinstance(names, str | list):
        raise UserError(f"{file}: key 'extends' holds {names!r}; expected a file name, or a list of them")
    for name in [names] if isinstance(names, str) else names:
        other = file.parent / str(name)
        if not other.is_file():
            raise UserError(f"{file}: key 'extends': no such file as {other}")
        if other.resolve() in (file.resolve(), *inside):
            raise UserError(f"{file}: key 'extends': {other} extends this file in turn")
        fields |= _read(other, (*inside, file.resolve()))
    return fields | own


def _set(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ArgumentError("overrides", override, "expected a.b=value")
    *parents, last = key.split(".")
    for parent in parents:
        inner = fields.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ArgumentError("overrides", override, f"'{parent}' holds a value, not keys")
        fields = inner
    try:
        fields[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArgumentError("overrides", override, f"broken YAML ({getattr(error, 'problem', error)})") from None


def _describe(error: ValidationError, recipe_type: type[BaseModel]) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"key '{name}' is not known{nearest(str(first['loc'][-1]), _known(recipe_type))}"
    return f"key '{name}': {first['msg'].lower()}" if name else first["msg"].removeprefix("Value error, ")


def _known(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names += _known(part)
    return names
