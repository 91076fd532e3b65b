"""Revisions of what comes from the Hub: a commit, a branch or a tag, written behind a name as ``owner/name@REVISION``."""

from __future__ import annotations

import re
from pathlib import Path

from prmbench.errors import ArgumentError

_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*(?:/[\w.-]+)?)@(?P<revision>[\w][\w./-]*)")
"""A Hub id, or the name of a data set, with a revision behind it."""


def split_revision(source: str) -> tuple[str, str | None]:
    """Take the revision off a name.

    Args:
        source: A folder, a Hub id, or a Hub id with a revision.

    Returns:
        The name without it, and the revision; None: there is none. A folder that exists has none.
    """
    found = _HUB_ID.fullmatch(source)
    if found is None or Path(source).exists():
        return source, None
    return found["id"], found["revision"]


def with_revision(source: str, revision: str | None, name: str, *, argument: str = "revision") -> str:
    """Put a revision behind a name.

    Args:
        source: A Hub id, or the name of a data set.
        revision: The revision; None leaves the name as it is.
        name: What the source is, for errors, such as ``rm``.
        argument: Name of the argument that the revision came from, for errors.

    Returns:
        The name with the revision.

    Raises:
        ArgumentError: The source is a folder or has a revision already, or the revision is none.
    """
    if revision is None:
        return source
    if Path(source).expanduser().exists():
        raise ArgumentError(
            argument, revision, f"{name} {source} is no Hub id but lies here, without revisions; leave it out"
        )
    if split_revision(source)[1] is not None:
        raise ArgumentError(argument, revision, f"{name} {source} names one already; leave one out")
    joined = f"{source}@{revision}"
    if split_revision(joined)[1] != revision:
        raise ArgumentError(
            argument, revision, f"expected a commit, a branch or a tag of a Hub repository; {name} is {source}"
        )
    return joined


def snapshot_commit(folder: Path) -> str | None:
    """Read the commit of a repository from where the Hub's cache keeps it.

    Args:
        folder: Folder of a checkpoint.

    Returns:
        The commit; None where the folder is not in the cache.
    """
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def refuse_revision(revision: str | None, path: Path) -> None:
    """Refuse a revision of data that are not read from the Hub.

    Args:
        revision: The revision; None: none was asked for.
        path: Where the data lie.

    Raises:
        ArgumentError: There is one.
    """
    if revision is not None:
        raise ArgumentError(
            "data_revision",
            revision,
            f"the data are read from {path}, not from the Hub, and have no revisions; leave it out",
        )
