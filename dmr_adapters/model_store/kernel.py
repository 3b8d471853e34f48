"""What Linux can do with files and Python does not offer. Where it cannot be had, nothing happens."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any, Final

__all__ = ["begin_writing", "reserve"]

_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE, fallocate(2)
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE, sync_file_range(2)
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def reserve(descriptor: int, start: int, size: int) -> None:
    """Give a file ``size`` bytes of the disk from ``start`` on; its length stays.

    ``os.posix_fallocate`` would change the length, and write every block where the file system cannot reserve.

    Raises:
        OSError: there is no room.
    """
    if size <= 0:
        return
    function = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    if function is not None and function(descriptor, _KEEP_SIZE, start, size):
        reason = ctypes.get_errno()
        if reason in _NO_SPACE:
            raise OSError(reason, os.strerror(reason))


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Have bytes that were written go to the disk from now on, so that a later sync finds little to do."""
    function = _function("sync_file_range", ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)
    if function is not None:
        function(descriptor, start, size, _WRITE)


@cache
def _function(name: str, *arguments: Any) -> Any:
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = arguments, ctypes.c_int
    return found
