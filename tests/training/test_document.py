from __future__ import annotations

import re

from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.resources import resource_folder
from prmbench.training.document import RECIPES, describe_recipe_keys


def test_the_page_of_keys_is_what_the_recipes_say():
    page = (resource_folder("training").parent / "docs" / "recipe-keys.md").read_text(encoding="utf-8")
    assert describe_recipe_keys().strip() in page, (
        "run: prmbench train keys, and put its output into docs/recipe-keys.md"
    )


def test_every_key_is_there_once_with_a_meaning():
    """Of each recipe: in the table of all recipes, or in its own."""
    text = describe_recipe_keys()
    assert CliRunner().invoke(app, ["train", "keys"]).output == text
    tables = dict(re.findall(r"^## (.*)\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE))
    keys = {title: re.findall(r"^\| `(\w+)` ", table, flags=re.MULTILINE) for title, table in tables.items()}
    for title, recipe in RECIPES:
        assert sorted([*keys["Every recipe"], *keys[title]]) == sorted(recipe.model_fields)
    for inner in ("lora", "backbone", "expected", "stop", "marks", "reward_model", "evaluate", "vllm", "tokens"):
        assert any(inner in title for title in tables), inner
    assert "|  |" not in text
