"""Find ``tasks/``, ``training/`` and ``leaderboards/``: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

import os
import re
import shlex
from importlib import metadata
from pathlib import Path

FOLDERS = ("tasks", "training", "leaderboards")


def resource_folder(name: str) -> Path:
    """Find a folder of this installation.

    Args:
        name: One of `FOLDERS`.

    Returns:
        The folder.

    Raises:
        ValueError: It is not one of `FOLDERS`.
        FileNotFoundError: The installation lacks it.
    """
    if name not in FOLDERS:
        raise ValueError(f"no resource folder '{name}'; there are {', '.join(FOLDERS)}")
    package = Path(__file__).resolve().parent
    for folder in (package / "_data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}: neither in {package} nor beside it; install prmbench again")


def cache_folder() -> Path:
    """Name the folder of what is kept between runs: ``$XDG_CACHE_HOME/prmbench``, else ``~/.cache/prmbench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prmbench"


def install_command(extra: str) -> str:
    """Name the command that installs what an extra of this package stands for.

    It names the packages themselves. ``prmbench[EXTRA]`` would ask an index for prmbench, and no index has it.

    Args:
        extra: Name of the extra, such as ``train``.

    Returns:
        A ``pip install`` command, quoted for a shell.
    """
    wanted = (one.partition(";") for one in metadata.requires("prmbench") or ())
    named = (name.strip() for name, _, when in wanted if re.search(rf"extra == ['\"]{extra}['\"]", when))
    return f"pip install {' '.join(map(shlex.quote, named))}"
