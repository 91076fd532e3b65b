"""`prmbench doctor`: says what is there, and what to run for what is not; whatever is missing, it does not fail."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from prmbench.cli import doctor
from prmbench.data.traces import PROCESSBENCH_SUBSETS


def found(**where):
    return {
        one.name: one for one in doctor.examine() if all(getattr(one, key) == value for key, value in where.items())
    }


def run(*arguments, **env):
    done = subprocess.run(
        [sys.executable, "-m", "prmbench", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path), "PRMBENCH_CACHE_GIB": "2"}
    shown = run(**env)
    assert any(line.split() == ["ok", "torch", metadata.version("torch")] for line in shown.splitlines())
    assert "0.0 MiB of 2 GiB" in shown
    assert not list(tmp_path.iterdir())  # looking writes nothing
    listed = json.loads(run("--json", **env))
    assert {one["group"] for one in listed} == {"versions", "devices", "engines", "data", "cache"}
    assert [one["name"] for one in listed if not one["ok"] and not one["remedy"]] == []


def test_what_is_installed_is_found():
    versions = found(group="versions")
    assert versions["torch"].found == metadata.version("torch")
    assert all(one.ok for one in versions.values())
    assert "threads" in found(group="devices")["cpu"].found
    assert found(group="engines")["hf"].ok


def test_real_data_is_found(processbench, monkeypatch):
    monkeypatch.setenv("PRMBENCH_DATA_DIR", str(processbench.parent))
    data = found(group="data")
    assert all(data[f"processbench {name}"].ok for name in PROCESSBENCH_SUBSETS)
    assert data["processbench gsm8k"].found.startswith("processbench/gsm8k.json, ")


def test_a_missing_subset_and_a_missing_folder(tmp_path, monkeypatch):
    (tmp_path / "processbench").mkdir()
    (tmp_path / "processbench" / "gsm8k.jsonl").write_text("")
    monkeypatch.setenv("PRMBENCH_DATA_DIR", str(tmp_path))
    data = found(group="data")
    assert data["processbench gsm8k"].ok
    assert not data["processbench math"].ok
    assert "put processbench/math.json there" in data["processbench math"].remedy
    monkeypatch.setenv("PRMBENCH_DATA_DIR", str(tmp_path / "nowhere"))
    assert "no such folder" in found(group="data")["PRMBENCH_DATA_DIR"].found


def test_neither_data_nor_hub(monkeypatch):
    monkeypatch.delenv("PRMBENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (one,) = found(group="data").values()
    assert not one.ok
    assert "export PRMBENCH_DATA_DIR=FOLDER" in one.remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (one,) = found(group="data").values()
    assert one.ok


def test_missing_extras_name_their_command(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in doctor.EXTRAS else real(name, *a))
    engines = found(group="engines")
    # prmbench is on no index: the packages are named themselves, as a shell takes them.
    for module, name in (
        ("vllm", "vllm<"),
        ("trl", "trl<"),
        ("lm_eval", "lm-eval<"),
        ("openai", "openai>"),
        ("fastapi", "fastapi>"),
    ):
        program, verb, wanted, *_ = shlex.split(engines[module].remedy)
        assert (program, verb) == ("pip", "install")
        assert wanted.startswith(name)
    extras = metadata.metadata("prmbench").get_all("Provides-Extra")
    assert {extra for extra, _ in doctor.EXTRAS.values()} == set(extras) - {"dev"}


@pytest.mark.parametrize("broken", ["torch", "prmbench.engines.reference_cache", "prmbench.data.problem_sets"])
def test_a_broken_installation_is_a_finding(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, broken, None)  # importing it fails
    findings = doctor.examine()
    failed = [one for one in findings if one.name == "check"]
    assert len(failed) == 1
    assert "failed (ModuleNotFoundError" in failed[0].found
    assert failed[0].remedy.startswith("pip install ")
    assert len({one.group for one in findings}) == 5


def test_wrong_settings_are_a_finding(monkeypatch, tmp_path):
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "lots")
    assert "expected a number of GiB" in found(group="cache")["check"].found
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(tmp_path / "file")))
    assert not found(group="cache")["reference log-probs"].ok
