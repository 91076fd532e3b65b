"""Every parameter and every field of the package is documented, one entry each, so that tools and readers find it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = griffe.load("prmbench", search_paths=[ROOT], docstring_parser="google", resolve_aliases=False)


def modules(package: griffe.Module) -> Iterator[griffe.Module]:
    """All modules of a package, itself included."""
    yield package
    for module in package.modules.values():
        yield from modules(module)


MODULES = {module.path: module for module in modules(PACKAGE)}


def entries(documented: griffe.Object, kind: griffe.DocstringSectionKind) -> set[str]:
    """Names with an entry of their own in a section of a docstring."""
    if documented.docstring is None:
        return set()
    sections = documented.docstring.parse("google", warnings=False)
    return {one.name for section in sections if section.kind is kind for one in section.value if one.description}


def is_option(parameter: griffe.Parameter) -> bool:
    """Whether it is an option of the command line, whose help text documents it."""
    return "typer." in str(parameter.annotation)


def undocumented(module: griffe.Module) -> list[str]:
    """Public parameters and fields of a module without an entry, as ``owner: name``."""
    missing = []

    def check(function: griffe.Function, owner: griffe.Object) -> None:
        named = entries(function, griffe.DocstringSectionKind.parameters)
        if function.name == "__init__":
            named |= entries(owner, griffe.DocstringSectionKind.parameters)
        for parameter in function.parameters:
            if parameter.name in ("self", "cls") or is_option(parameter):
                continue
            if parameter.name not in named and parameter.name.lstrip("*") not in {name.lstrip("*") for name in named}:
                missing.append(f"{function.path}: {parameter.name}")

    def visit(owner: griffe.Module | griffe.Class) -> None:
        for name, member in owner.members.items():
            if member.is_alias or (name.startswith("_") and name != "__init__"):
                continue
            if member.is_function:
                made = name == "__init__" and "dataclass" in owner.labels  # its fields are documented instead
                if (
                    not made
                    and not member.overloads
                    and "property" not in member.labels
                    and "cached" not in member.labels
                ):
                    check(member, owner)
            elif member.is_class:
                fields(member)
                visit(member)

    def fields(owner: griffe.Class) -> None:
        named = entries(owner, griffe.DocstringSectionKind.attributes)
        for name, member in owner.members.items():
            if member.is_alias or not member.is_attribute or name.startswith("_") or "property" in member.labels:
                continue
            described = "description=" in str(member.value) or member.docstring is not None
            if (
                member.annotation is not None
                and "ClassVar" not in str(member.annotation)
                and not described
                and name not in named
            ):
                missing.append(f"{owner.path}: {name}")

    visit(module)
    return missing


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_parameter_and_field_has_an_entry(name):
    missing = undocumented(MODULES[name])
    assert not missing, "\n".join(missing)
