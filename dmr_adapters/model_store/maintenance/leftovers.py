"""Deleting what nobody is making any more. Whoever makes a partial or a bundle has it locked."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.lock import is_current, try_flock

__all__ = ["delete_abandoned", "delete_partial", "is_abandoned"]

_UNLOCKABLE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO})  # it is gone; a link; a socket


def is_abandoned(path: Path) -> bool:
    """Whether nobody has this locked."""
    with _locked(path) as free:
        return free


def delete_abandoned(path: Path) -> bool:
    """Delete a file or directory unless somebody has it locked; whether it is gone.

    Raises:
        OSError: it could not be deleted.
    """
    with _locked(path) as free:
        if free:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return free


def delete_partial(partial: Path, journal: Path | None = None) -> bool:
    """Delete a partial blob and its journal unless somebody writes it; whether it is gone.

    Raises:
        OSError: it could not be deleted.
    """
    with _locked(partial) as free:
        if free:
            # A partial without a journal is believed from its beginning, one with gaps must not be.
            partial.unlink(missing_ok=True)
            if journal is not None:
                journal.unlink(missing_ok=True)
    return free


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Have ``path`` locked for a moment; ``False`` when somebody else has, or nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as exc:
        yield exc.errno in _UNLOCKABLE
        return
    try:
        yield try_flock(descriptor) and is_current(descriptor, path)
    finally:
        with suppress(OSError):
            os.close(descriptor)
