"""The image: what it copies is enough to install, and what it names exists. Building it needs a registry, which a test has not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Dockerfile").read_text()


def steps(instruction):
    """The arguments of every step of one kind, lines that go on joined."""
    joined = TEXT.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{instruction} ")]


def test_every_command_parses_and_every_extra_exists():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.findall(r"EXTRAS=([\w,-]+)", TEXT)
    assert len(wanted) == 2  # for CUDA, and without
    assert {extra for extras in wanted for extra in extras.split(",")} <= set(known)
    for command in steps("RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
    assert steps("ENTRYPOINT") == ['["prmbench"]']


@pytest.mark.slow
def test_what_is_copied_installs_and_runs(tmp_path):
    """The image's files alone, without those that are ignored: the package is built from them and answers."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    source = tmp_path / "src"
    source.mkdir()
    for copied in steps("COPY"):
        *names, _ = copied.split()
        for name in names:
            assert any(one.removeprefix("!").split("/")[0] == name for one in ignored), f"{name} is ignored"
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, source)
                continue
            parts = [one[1:] for one in ignored if one[1:].startswith(f"{name}/")] or [name]
            for part in parts:
                target = source / part
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, target)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, source], check=True, capture_output=True)
    env = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, site / "bin" / "prmbench", "doctor"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "versions" in done.stdout
    shown = subprocess.run(
        [sys.executable, site / "bin" / "prmbench", "train", "rm", "qwen3-0.6b/ipvrm.yaml", "--dry-run"],
        env=env, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
