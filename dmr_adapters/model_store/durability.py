"""Changing files so that a crash leaves the old state or the new one, and saying why a disk refused."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dmr_core.errors import StorageFullError, StoreUnwritableError

__all__ = [
    "disk_conditions",
    "free_space",
    "is_damage",
    "make_directories",
    "publish",
    "storage_full",
    "sync_directory",
    "sync_tree",
    "write_durably",
]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_DAMAGE: Final = frozenset(
    getattr(errno, name) for name in ("EIO", "EBADMSG", "EUCLEAN", "EILSEQ") if hasattr(errno, name)
)
"""What Linux says of bad sectors, and of checksums that do not fit (ext4, XFS and Btrfs say EUCLEAN or EBADMSG)."""
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def disk_conditions(root: Path, needed: int | None = None) -> Iterator[None]:
    """Turn what the operating system says about writing below ``root`` into conditions.

    Raises:
        StorageFullError: no space or quota left; ``needed`` is how many bytes were still to come.
        StoreUnwritableError: anything else that went wrong with a file.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise storage_full(root, needed) from exc
        remedy = (
            "give this user write access to it, or set MODELS_PATH to a directory that is writable"
            if exc.errno in _FORBIDDEN
            else "raise the limit of open files (ulimit -n), and try again"
            if exc.errno in _NO_DESCRIPTORS
            else f"check {os.fspath(exc.filename)!r}"
            if exc.filename
            else "check the disk it is on"
        )
        reason = exc.strerror or type(exc).__name__
        raise StoreUnwritableError(f"cannot write the model store at {str(root)!r}: {reason}; {remedy}") from exc


def is_damage(error: OSError) -> bool:
    """Whether a file that cannot be read is damaged. Anything else may pass, or be somebody's permissions."""
    return error.errno in _DAMAGE


def storage_full(root: Path, needed: int | None = None) -> StorageFullError:
    """The condition of a full disk, saying what is needed and what there is."""
    free = free_space(root)
    need = "" if needed is None else f": {needed} bytes more are needed"
    have = "" if free is None else f"{', ' if need else ': '}{free} bytes are free"
    return StorageFullError(
        f"the disk of the model store at {str(root)!r} is full{need}{have}; remove models or make room",
        needs=needed,
        has=free,
    )


def free_space(root: Path) -> int | None:
    """Bytes this user may still write on the disk of ``root``; ``None`` where it does not say."""
    try:
        status = os.statvfs(root)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_open_directory(descriptor)
    finally:
        os.close(descriptor)


def _sync_open_directory(descriptor: int) -> None:
    # Some network file systems cannot sync a directory, and need not.
    with suppress(OSError):
        os.fsync(descriptor)


def sync_tree(root: Path) -> None:
    """Make every directory below ``root``, and every file that is not a link to one somewhere else, survive a power failure."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_directory(Path(directory))


def make_directories(directory: Path) -> None:
    """Make ``directory`` and what it is in, for good."""
    if not directory.is_dir():
        make_directories(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def publish(source: Path, target: Path) -> None:
    """Rename ``source``, already synced, to ``target``, for good. When it fails, nothing was renamed."""
    make_directories(target.parent)
    # Opened first: once the rename is done, whoever wrote the source must not take it back.
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source.rename(target)
        _sync_open_directory(descriptor)
    finally:
        os.close(descriptor)


def write_durably(target: Path, data: bytes, *, temporary: Path, mode: int = 0o644) -> os.stat_result:
    """Replace ``target`` by ``data`` in one step; the status of the file that is there then.

    ``temporary`` is a directory on the same file system.
    """
    make_directories(temporary)
    descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=temporary)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            status = os.fstat(descriptor)
        publish(Path(name), target)
        return status
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - it is a string already
        raise
