"""The wheel: built, installed elsewhere and used."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import support
from packaging.requirements import Requirement

import prmbench
from prmbench.resources import FOLDERS, resource_folder

ROOT = Path(__file__).resolve().parent.parent


def test_no_folder_of_tests_is_taken_for_a_package():
    """Pytest puts the folder of each test file on sys.path, where a folder called `vllm` would stand for the library."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [pyproject["dependencies"], *pyproject["optional-dependencies"].values()]
    packages = {Requirement(one).name.replace("-", "_").lower() for group in groups for one in group}
    assert {"vllm", "trl", "transformers"} <= packages
    on_path = {file.parent for file in (ROOT / "tests").rglob("test_*.py")}
    on_path = {folder for folder in on_path if not (folder / "__init__.py").exists()}
    assert not [one for folder in on_path for one in folder.iterdir() if one.is_dir() and one.name in packages]


@pytest.mark.slow
def test_wheel_installs_and_works(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
    )
    wheel = next((tmp_path / "dist").glob("*.whl"))
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel],
        check=True,
    )
    env = {**os.environ, "PYTHONPATH": str(target)}
    code = (
        "import prmbench, prmbench.resources as r; print(prmbench.__file__);"
        "print(*[r.resource_folder(n) for n in r.FOLDERS], sep='\\n')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = shown.stdout.split()
    assert all(line.startswith(str(target)) for line in lines), lines
    for folder in lines[1:]:
        assert (Path(folder) / "README.md").exists()
    shipped = Path(lines[1:][FOLDERS.index("leaderboards")])
    assert len(list((shipped / "reported").iterdir())) == len(list((ROOT / "leaderboards" / "reported").iterdir()))
    assert not (shipped / "entries").exists()  # only the repository needs them
    model = support.save_checkpoint(tmp_path / "m")
    data = support.write_traces(tmp_path / "made.jsonl", 20)
    done = subprocess.run(
        [target / "bin" / "prmbench", "eval", "--rm", model, "--kind", "endo", "--data", data, "--resamples", "10"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "entry: prmbench-results" in done.stdout


def test_resource_folders_of_this_checkout():
    for name in FOLDERS:
        assert resource_folder(name).is_dir()
    with pytest.raises(ValueError, match="no resource folder 'nope'"):
        resource_folder("nope")


def test_public_names_exist():
    for name in prmbench.__all__:
        assert getattr(prmbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = prmbench.nope
