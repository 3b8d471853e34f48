"""The database that answers are kept in: everything about SQLite, for one thread.

One table; ``used`` is when an answer was last written or gone on from, in seconds since the Unix epoch. Deleted text is
overwritten (``secure_delete``), and its room is given back to the file system. With write-ahead logging and
``synchronous=NORMAL`` what was committed survives a crash of the process; the last moments before a power failure may be
lost, never the file (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from dmr_adapters.model_store.durability import disk_conditions, storage_full
from dmr_core.errors import BodyTooLargeError, StorageFullError, StoreUnwritableError
from dmr_core.ports.response_store import KeptResponse

__all__ = ["ResponseDatabase"]

_log: Final = logging.getLogger("dmr.responses")
_BUSY_TIMEOUT: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous_id TEXT, document BLOB NOT NULL, input BLOB NOT NULL, events BLOB NOT NULL,
    finished INTEGER NOT NULL, written REAL NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used, size);
"""
_INSERT: Final = """
INSERT OR REPLACE INTO responses (id, previous_id, document, input, events, finished, written, used, size)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT: Final = """
SELECT id, previous_id, document, input, events, finished, written FROM responses WHERE id = ? AND used > ?
"""
_SELECT_TURN: Final = """
SELECT id, previous_id, document, input, x'', finished, written FROM responses WHERE id = ? AND used > ?
"""
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_T = TypeVar("_T")


class ResponseDatabase:
    """A file of answers, opened by its first use. ``lifetime`` in seconds. For one thread.

    A file that is no database, or a damaged one, is kept aside as ``….broken``, and a new one begun.
    """

    def __init__(self, path: Path, *, lifetime: float, max_bytes: int) -> None:
        self._path = path
        self._lifetime = lifetime
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None

    def keep(self, response: KeptResponse, now: float) -> None:
        """See :class:`~dmr_core.ports.response_store.ResponseStore`."""
        if response.size > self._max_bytes:
            raise StorageFullError(
                f"the response takes {response.size} bytes, and DMR_RESPONSES_MAX_BYTES allows {self._max_bytes} for all",
                needs=response.size,
                has=self._max_bytes,
            )

        def write(connection: sqlite3.Connection) -> None:
            self._expire(connection, now)
            connection.execute(
                _INSERT,
                (
                    response.id,
                    response.previous_id,
                    response.document,
                    response.input,
                    response.events,
                    response.finished,
                    response.written,
                    now,
                    response.size,
                ),
            )
            self._make_room(connection, response.id)

        self._in_transaction(write)

    def find(self, response_id: str, now: float) -> KeptResponse | None:
        """See :class:`~dmr_core.ports.response_store.ResponseStore`."""

        def read(connection: sqlite3.Connection) -> KeptResponse | None:
            row = connection.execute(_SELECT, (response_id, now - self._lifetime)).fetchone()
            return None if row is None else _kept(row)

        return self._in_transaction(read)

    def chain(self, response_id: str, max_bytes: int, now: float) -> tuple[KeptResponse, ...]:
        """See :class:`~dmr_core.ports.response_store.ResponseStore`."""

        def read(connection: sqlite3.Connection) -> tuple[KeptResponse, ...]:
            found: dict[str, KeptResponse] = {}
            wanted: str | None = response_id
            size = 0
            while wanted is not None and wanted not in found:
                row = connection.execute(_SELECT_TURN, (wanted, now - self._lifetime)).fetchone()
                if row is None:
                    break
                kept = found[wanted] = _kept(row)
                size += kept.size
                if size > max_bytes:
                    raise BodyTooLargeError(max_bytes)
                wanted = kept.previous_id
            connection.executemany("UPDATE responses SET used = ? WHERE id = ?", ((now, name) for name in found))
            return tuple(found.values())

        return self._in_transaction(read)

    def remove(self, response_id: str, now: float) -> bool:
        """See :class:`~dmr_core.ports.response_store.ResponseStore`."""

        def write(connection: sqlite3.Connection) -> bool:
            self._expire(connection, now)
            done = connection.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount > 0
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            return done

        return self._in_transaction(write)

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        self._in_transaction(lambda connection: self._expire(connection, now))

    def close(self) -> None:
        """Close the file. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _expire(self, connection: sqlite3.Connection, now: float) -> None:
        done = connection.execute("DELETE FROM responses WHERE used <= ?", (now - self._lifetime,))
        if done.rowcount:
            connection.execute("PRAGMA incremental_vacuum").fetchall()

    def _make_room(self, connection: sqlite3.Connection, spared: str) -> None:
        (total,) = connection.execute("SELECT total(size) FROM responses").fetchone()
        if total <= self._max_bytes:
            return
        rows = connection.execute("SELECT id, size FROM responses WHERE id != ? ORDER BY used, rowid", (spared,))
        gone = []
        for name, size in rows:
            if total <= self._max_bytes:
                break
            gone.append((name,))
            total -= size
        connection.executemany("DELETE FROM responses WHERE id = ?", gone)
        connection.execute("PRAGMA incremental_vacuum").fetchall()

    def _in_transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do ``work``, whole or not at all; once more with a new file, where this one is broken."""
        with self._conditions():
            try:
                return self._attempt(work)
            except sqlite3.DatabaseError as exc:
                if _code(exc) not in _BROKEN:
                    raise
                self._set_aside(exc)
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            return work(connection)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # What people say to models is theirs: nobody else on this machine may read it.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {1 << 20}").fetchall()
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, reason: Exception) -> None:
        self.close()
        aside = self._path.with_suffix(".broken")
        _log.warning("responses in %s cannot be read (%s); the file is kept as %s", self._path, reason, aside.name)
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        root = self._path.parent.parent
        try:
            with disk_conditions(root):
                yield
        except sqlite3.Error as exc:
            if _code(exc) == sqlite3.SQLITE_FULL:
                raise storage_full(root) from exc
            raise StoreUnwritableError(
                f"responses cannot be kept in {str(self._path)!r}: {exc}; check the file and its disk, or send "
                '"store": false'
            ) from exc


def _kept(row: tuple[str, str | None, bytes, bytes, bytes, int, float]) -> KeptResponse:
    name, previous, document, said, events, finished, written = row
    return KeptResponse(
        id=name,
        previous_id=previous,
        document=document,
        input=said,
        events=events,
        finished=bool(finished),
        written=written,
    )


def _code(error: sqlite3.Error) -> int:
    """The primary result code; the lowest byte of an extended one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
