"""Log-probs of references, kept between runs.

They are computed once for a reference, and used by every reward model that is measured or trained against it.

The store is one SQLite file. A row holds one *batch*, under a hash of everything that decides its numbers: weights, engine, dtype,
device, libraries, and the token ids of all its sequences in order. What else is in its batch changes the log-prob of a token by up
to 1e-4. So a run that finds its batches here gets the very bits that it would have computed, and whatever has changed (a weight,
the template, a record, the batch size) is not found. Numbers are float32 where that loses nothing (it never does with the Hugging
Face engine), else float64. Each row has a checksum.

The store never stops a run: what is wrong with it is said once, on stderr, and the run goes on without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.errors import ArgumentError, UserError, first_line, printable
from prmbench.resources import cache_folder

LIMIT_VARIABLE = "PRMBENCH_CACHE_GIB"
DEFAULT_GIB = 4.0
VERSION = 2
"""Version of what is kept. Older numbers are never found: some of version 1 are of adapters that change their base."""
_USED_SECONDS = 3600.0  # how stale "last used" may be, so that most hits cost no write
_WAIT_SECONDS = 10.0  # how long to wait for another process that writes

_TABLES = """
CREATE TABLE IF NOT EXISTS reference (
    id INTEGER PRIMARY KEY, identity TEXT UNIQUE NOT NULL, name TEXT NOT NULL, weights TEXT NOT NULL, engine TEXT NOT NULL,
    device TEXT NOT NULL, dtype TEXT NOT NULL, vocabulary INTEGER NOT NULL, max_length INTEGER
);
CREATE TABLE IF NOT EXISTS batch (
    key BLOB PRIMARY KEY, reference INTEGER NOT NULL REFERENCES reference (id), tokens INTEGER NOT NULL, type TEXT NOT NULL,
    checksum INTEGER NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batch_used ON batch (used);
CREATE INDEX IF NOT EXISTS batch_listed ON batch (reference, tokens, bytes, used);
"""


@dataclass(frozen=True)
class Identity:
    """What decides the log-probs of a reference, apart from the token ids.

    Attributes:
        weights: sha256 of weights and config (`prmbench.engines.checkpoint.checkpoint_hash`).
        engine: Name of the engine.
        device: Type of the device.
        dtype: Type of the weights.
        kernels: Versions and settings that decide the rounding, by name.
    """

    weights: str
    engine: str
    device: str
    dtype: str
    kernels: dict[str, str]

    def text(self) -> str:
        """Give it as JSON with sorted keys."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)

    def key(self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]) -> bytes:
        """Hash it together with a batch.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            first: Position of the first token asked for in each sequence.

        Returns:
            sha256 in bytes.
        """
        whole = hashlib.sha256(self.text().encode())
        for ids, start in zip(sequences, first, strict=True):
            whole.update(len(ids).to_bytes(8, "little") + int(start).to_bytes(8, "little") + ids.tobytes())
        return whole.digest()


@dataclass(frozen=True)
class Shape:
    """What must be known of a reference whose engine is not loaded.

    Attributes:
        vocabulary: Number of logits of one position.
        max_length: Longest sequence in tokens; None where it is not known.
    """

    vocabulary: int
    max_length: int | None


@dataclass(frozen=True)
class Listed:
    """One reference as `prmbench cache list` shows it.

    Attributes:
        name: Its name, as the user gave it.
        weights: sha256 of its weights and config.
        engine: Name of the engine.
        device: Type of the device.
        dtype: Type of the weights.
        batches: Number of batches that are kept.
        tokens: Number of tokens whose log-probs are kept.
        bytes: Size of the log-probs.
        used: Time of the last use, in Unix seconds.
    """

    name: str
    weights: str
    engine: str
    device: str
    dtype: str
    batches: int
    tokens: int
    bytes: int
    used: float


def cache_path() -> Path:
    """Name the file: ``$XDG_CACHE_HOME/prmbench/reference-1.sqlite``, else under ``~/.cache``. The number is that of its tables."""
    return cache_folder() / "reference-1.sqlite"


def cache_limit() -> int:
    """Read the largest size in bytes from ``PRMBENCH_CACHE_GIB`` (default 4). 0 means that there is no cache.

    Raises:
        UserError: The variable holds no number of GiB.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        gib = float(text) if text else DEFAULT_GIB
        if not 0 <= gib < 2**20:
            raise ValueError
    except ValueError:
        raise UserError(f"{LIMIT_VARIABLE}={text}: expected a number of GiB, 0 for no cache") from None
    return int(gib * 2**30)


def open_cache(wanted: bool = True) -> LogprobCache | None:
    """Open the cache of the user.

    Args:
        wanted: Whether it is wanted.

    Returns:
        The cache; None where it is not wanted, or its limit is 0.
    """
    return LogprobCache() if wanted and cache_limit() > 0 else None


class LogprobCache:
    """The file, opened when it is first used. Several processes may use it; a kill loses at most the batch that is being written.

    Attributes:
        path: The file.
        limit: Its largest size in bytes. The batches that were used longest ago go first.
    """

    def __init__(self, path: Path | None = None, limit: int | None = None) -> None:
        """Name the file.

        Args:
            path: The file; None: `cache_path`.
            limit: Its largest size in bytes; None: `cache_limit`.
        """
        self.path = path or cache_path()
        self.limit = cache_limit() if limit is None else limit
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def shape(self, identity: Identity) -> Shape | None:
        """Look up what is known of a reference.

        Args:
            identity: The reference.

        Returns:
            Its shape; None where no log-probs of it are kept.
        """
        query = (
            "SELECT vocabulary, max_length FROM reference WHERE identity = ? "
            "AND EXISTS (SELECT 1 FROM batch WHERE batch.reference = reference.id)"
        )
        found = self._run(lambda db: db.execute(query, (identity.text(),)).fetchone())
        return None if found is None else Shape(*found)

    def get(self, key: bytes, tokens: int) -> NDArray[np.float64] | None:
        """Look up the log-probs of a batch.

        Args:
            key: Key of the batch (`Identity.key`).
            tokens: Number of tokens that are asked for.

        Returns:
            float64, shape [tokens]; None where they are not there, or are not what was written.
        """

        def read(db: sqlite3.Connection) -> NDArray[np.float64] | None:
            row = db.execute("SELECT type, checksum, data, used FROM batch WHERE key = ?", (key,)).fetchone()
            if row is None or row[0] not in ("float32", "float64") or zlib.crc32(row[2]) != row[1]:
                return None
            values = np.frombuffer(row[2], dtype=row[0]).astype(np.float64)
            if time.time() - row[3] > _USED_SECONDS:
                with contextlib.suppress(sqlite3.OperationalError):  # a cache that can only be read serves too
                    db.execute("UPDATE batch SET used = ? WHERE key = ?", (time.time(), key))
            return values if len(values) == tokens else None

        return self._run(read)

    def put(self, key: bytes, values: NDArray[np.float64], identity: Identity, name: str, shape: Shape) -> None:
        """Keep the log-probs of a batch.

        Args:
            key: Key of the batch (`Identity.key`).
            values: The log-probs. float64, shape [tokens].
            identity: The reference.
            name: Name of the reference, for lists.
            shape: Its shape.
        """
        small = values.astype(np.float32)
        exact = small if (small == values).all() else values
        data = exact.tobytes()
        row = (len(values), exact.dtype.name, zlib.crc32(data), len(data), time.time(), data)
        # The name may come from the card of a checkpoint.
        about = (identity.text(), printable(name), identity.weights, identity.engine, identity.device, identity.dtype)

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.execute(
                    "INSERT OR IGNORE INTO reference (identity, name, weights, engine, device, dtype, vocabulary, max_length) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*about, shape.vocabulary, shape.max_length),
                )
                (which,) = db.execute("SELECT id FROM reference WHERE identity = ?", about[:1]).fetchone()
                db.execute("INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (key, which, *row))
                self._evict(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

        self._run(write)

    def _evict(self, db: sqlite3.Connection) -> None:
        """Delete what was used longest ago until the pages in use are within the limit. Free pages are used again."""
        while (used := _bytes_in_use(db)) > self.limit:
            n, kept = db.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM batch").fetchone()
            if n == 0:
                return
            part = max(1, int(n * min(1.0, 0.1 + (used - self.limit) / max(kept, 1))))
            db.execute("DELETE FROM batch WHERE key IN (SELECT key FROM batch ORDER BY used LIMIT ?)", (part,))

    def listed(self) -> list[Listed]:
        """List the references that log-probs are kept of, the last used first."""
        query = (
            "SELECT name, weights, engine, device, dtype, COUNT(*), SUM(tokens), SUM(bytes), MAX(batch.used) "
            "FROM batch JOIN reference ON reference.id = batch.reference GROUP BY reference.id ORDER BY MAX(batch.used) DESC"
        )
        if not self.path.exists():
            return []
        return [Listed(*row) for row in self._run(lambda db: db.execute(query).fetchall()) or []]

    def size(self) -> int:
        """Give the size on disk in bytes, that of the write-ahead log included."""
        beside = [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]
        return sum(path.stat().st_size for path in beside if path.exists())

    def clear(self, reference: str | None = None) -> None:
        """Delete the batches of one reference, or the whole file.

        Args:
            reference: Name of the reference, or six or more characters that the hash of its weights begins with; None deletes the
                whole file.

        Raises:
            UserError: There is no such reference, or the file cannot be changed.
        """
        if reference is None:
            self._close()
            try:
                for end in ("-wal", "-shm", ""):
                    self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be deleted ({error.strerror})") from None
            return
        known = sorted({one.name for one in self.listed()})
        which = "SELECT id FROM reference WHERE name = :r OR (LENGTH(:r) >= 6 AND SUBSTR(weights, 1, LENGTH(:r)) = :r)"
        try:
            db = self._open()
            ids = [row[0] for row in db.execute(which, {"r": reference}).fetchall()]
            n = sum(db.execute("DELETE FROM batch WHERE reference = ?", (one,)).rowcount for one in ids)
            if n:
                db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._close()  # else the log of what was written to shrink the file counts as its size
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"{self.path}: cannot be changed ({first_line(error)}); delete the file") from None
        if not n:
            raise ArgumentError("reference", reference, f"not in the cache; there are {', '.join(known) or 'none'}")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                with contextlib.suppress(sqlite3.OperationalError):  # a file that can only be read serves too
                    db.execute("PRAGMA journal_mode = WAL")
                    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last batches, never the file
                with contextlib.suppress(sqlite3.OperationalError):
                    db.executescript(_TABLES)
                db.execute("SELECT 1 FROM batch LIMIT 1")
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Any) -> Any:
        """Do something with the file. Where that fails, say so, return None, and leave the file alone from then on."""
        if self._broken:
            return None
        try:
            return work(self._open())
        except (sqlite3.Error, OSError) as error:
            self._broken = True
            print(
                f"warning: the reference cache {self.path} cannot be used ({first_line(error)}); going on without it "
                "(`prmbench cache clear` makes a new one)",
                file=sys.stderr,
            )
            return None


def _bytes_in_use(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
