"""Only plain files are read and copied where a folder is shared: a link would lead out of it."""

from __future__ import annotations

from pathlib import Path

from prmbench.errors import UserError


def refuse_links(path: Path) -> None:
    """Refuse a link, which leads out of the folder that it lies in.

    Args:
        path: The path.

    Raises:
        UserError: It is a link.
    """
    if path.is_symlink():
        raise UserError(f"{path}: is a link; put the file or folder itself there")


def require_plain_file(path: Path) -> None:
    """Refuse what is no file of its own: a link, a folder, a pipe, a device.

    Args:
        path: The path.

    Raises:
        UserError: It is no plain file.
    """
    refuse_links(path)
    if not path.is_file():
        raise UserError(f"{path}: {'is no plain file' if path.exists() else 'no such file'}; put the file itself there")
