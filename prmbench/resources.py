"""Find ``tasks/``, ``training/`` and ``leaderboards/``: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

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
