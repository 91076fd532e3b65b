from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prmbench.benchmarks.document import ITEM_TYPES, entry_fields
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry
from prmbench.benchmarks.registry import benchmarks
from prmbench.errors import UserError
from prmbench.results.schema import Estimate, digest, fingerprint, read_entry

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_schema_is_the_schema():
    page = (ROOT / "docs" / "entry.md").read_text(encoding="utf-8")
    assert entry_fields(benchmarks()).strip() in page, "run: prmbench schema, and put its output into docs/entry.md"


def test_types_of_items_are_plain():
    """Names of the validators' types are not shown."""
    types = [line.split("|")[2] for line in entry_fields(benchmarks()).splitlines() if line.count("|") > 3]
    assert len(types) > 100
    for name in ITEM_TYPES:
        assert not [one for one in types if re.search(rf"\b{name}\b", one)], name


def test_every_field_is_described():
    assert "| |" not in entry_fields(benchmarks()).replace("|  |", "| |")


def test_fingerprint_depends_on_what_must_be_equal():
    base = fingerprint("processbench", 1, "abc")
    assert base == fingerprint("processbench", 1, "abc")
    assert (
        len(
            {
                base,
                fingerprint("other", 1, "abc"),
                fingerprint("processbench", 2, "abc"),
                fingerprint("processbench", 1, "x"),
            }
        )
        == 4
    )


def test_digest_ignores_key_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_infinite_numbers_stay_valid_json():
    text = Estimate(value=float("inf")).model_dump_json()
    assert json.loads(text, parse_constant=pytest.fail)["value"] == "Infinity"
    assert Estimate.model_validate_json(text).value == float("inf")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not an entry"), ("{}", "subject"), ('{"subject": 1}', "subject")]
)
def test_a_file_that_is_no_entry(tmp_path, content, message):
    (tmp_path / "entry.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_entry(tmp_path / "entry.json", ProcessBenchEntry)
