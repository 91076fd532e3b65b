"""docs/architecture.md shows the tree and the import order that there are."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE, LAYERS = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)[:2]


def test_the_tree_has_every_folder():
    shown: list[str] = []
    inside: list[str] = []
    for indent, name in re.findall(r"^( *)(\w+)/ ", TREE, flags=re.MULTILINE):
        inside = [*inside[: len(indent) // 2], name]
        shown.append("/".join(inside))
    there = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "prmbench").rglob("*.py")} | {
        "prmbench/reports/templates",
        *("training", "tasks", "leaderboards", "docs", "scripts", "tests"),
    }
    assert set(shown) == there
    assert len(shown) == len(there)


def test_the_import_order_is_the_contract():
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:layers"]["layers"].split("\n")
    order = [set(re.findall(r"\w+", line)) for line in reversed(layers) if line.strip(" ") not in ("", "__main__")]
    assert [set(re.findall(r"\w+", line)) for line in LAYERS.strip().split("\n")] == order
