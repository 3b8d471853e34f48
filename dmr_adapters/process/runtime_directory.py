"""A directory of our own for sockets and for the record of our children.

``<base>/<random>/`` holds ``daemon.lock``, locked for as long as this process lives; one
``<token>.json`` per child; and the engines' sockets. Whoever can take the lock knows that the
daemon is dead, and may clear up after it (:mod:`dmr_adapters.process.leftovers`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from dmr_core.errors import InvalidConfigurationError

__all__ = ["LOCK_NAME", "ChildRecord", "RuntimeDirectory", "base_locked", "find_base", "read_records", "try_lock"]

LOCK_NAME: Final = "daemon.lock"
_BASE_LOCK: Final = "base.lock"
_LONGEST_SOCKET: Final = 100  # bytes; sun_path has 108 on Linux and 104 on macOS, with the final NUL
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@attrs.frozen
class ChildRecord:
    """What is needed to recognise a child after our own death."""

    token: str = attrs.field(validator=attrs.validators.matches_re("[0-9a-f]{32}"))
    pid: int | None = None
    start_time: int | None = None
    boot_id: str = ""


def find_base(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The directory that runtime directories of this user share, created if need be.

    ``given``, else ``$XDG_RUNTIME_DIR/dmr``, else ``dmr-<uid>`` in the directory for temporary files.

    Raises:
        InvalidConfigurationError: it belongs to somebody else, or others can enter it.
    """
    if given is not None:
        base = given.absolute()
    elif (runtime := Path(environ.get("XDG_RUNTIME_DIR", ""))).is_absolute() and _is_own_directory(runtime):
        base = runtime / "dmr"
    else:  # XDG_RUNTIME_DIR is unset, or survived a change of user and is not ours
        base = Path(tempfile.gettempdir()) / f"dmr-{os.geteuid()}"
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        base.mkdir(mode=0o700, exist_ok=True)
        found = base.lstat()
    except OSError as exc:
        raise InvalidConfigurationError(f"cannot use {str(base)!r} as runtime directory: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidConfigurationError(f"the runtime directory {str(base)!r} is not a directory")
    if found.st_uid != os.geteuid():
        raise InvalidConfigurationError(f"the runtime directory {str(base)!r} belongs to another user")
    if found.st_mode & 0o077:
        raise InvalidConfigurationError(
            f"the runtime directory {str(base)!r} is open to other users; make it private with chmod 700"
        )
    return base


def _is_own_directory(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock ``path``, or ``None`` while another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def base_locked(base: Path) -> Iterator[None]:
    """Keep other daemons from creating or clearing directories in ``base``; waits its turn.

    Without it, a directory could be cleared in the moment between its creation and its locking.
    """
    descriptor = os.open(base / _BASE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class RuntimeDirectory:
    """One daemon's directory. Create it under :func:`base_locked`, remove it with :meth:`close`."""

    def __init__(self, base: Path) -> None:
        """Create and lock a directory in ``base``.

        Raises:
            InvalidConfigurationError: sockets in it would have paths too long for the system.
        """
        self.path = base / secrets.token_hex(4)
        self._sockets = 0
        self._check_length(self.path / "engine-00000.sock")
        self.path.mkdir(mode=0o700)
        self._lock: int | None = try_lock(self.path / LOCK_NAME)

    def socket_path(self, name: str) -> Path:
        """A path for a socket that was never handed out before.

        Raises:
            InvalidConfigurationError: the path would be too long for the system.
        """
        self._sockets += 1
        path = self.path / f"{_UNSAFE.sub('-', name).strip('-')[:24] or 'engine'}-{self._sockets}.sock"
        self._check_length(path)
        return path

    def write(self, record: ChildRecord) -> None:
        """Write down a child; an earlier record with its token is replaced, never seen half-written."""
        target = self._record(record.token)
        draft = target.with_suffix(".draft")
        draft.write_text(json.dumps(attrs.asdict(record)), encoding="utf-8")
        draft.replace(target)

    def erase(self, token: str) -> None:
        """Forget a child that is gone. Idempotent."""
        self._record(token).unlink(missing_ok=True)

    def close(self, *, remove: bool = True) -> None:
        """Give up the lock, after removing the directory unless there is still something to find in it.

        Idempotent.
        """
        if self._lock is None:
            return
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _record(self, token: str) -> Path:
        return self.path / f"{token}.json"

    @staticmethod
    def _check_length(path: Path) -> None:
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            raise InvalidConfigurationError(
                f"the runtime directory {str(path.parent.parent)!r} is too deep: sockets in it would have "
                f"paths of more than {_LONGEST_SOCKET} bytes; choose a shorter one with XDG_RUNTIME_DIR"
            )


def read_records(directory: Path) -> list[ChildRecord]:
    """The records of a daemon that is dead; what cannot be read is left out."""
    records = []
    for path in directory.glob("*.json"):
        try:
            records.append(ChildRecord(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return records
