"""Room kept for making room: removing a model, and saying that one is being used, have to write as well.

On a disk that is full they would fail, and the advice to remove models could not be followed. So a file has blocks that
nobody may use otherwise; it has no bytes in it. Where a file system cannot give blocks in advance there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from dmr_adapters.model_store.kernel import reserve
from dmr_adapters.model_store.layout import StoreLayout
from dmr_core.errors import StorageFullError

__all__ = ["keep_reserve", "with_reserve"]

_T = TypeVar("_T")

_LEAST: Final = 64 * 1024
_ENOUGH: Final = 1024 * 1024
_SECTOR: Final = 512  # what st_blocks counts


def keep_reserve(layout: StoreLayout) -> None:
    """Have the reserve, or as much of it as there is room for. The store's lock is held."""
    wanted = _wanted(layout)
    with suppress(OSError):
        descriptor = os.open(layout.reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            here = os.fstat(descriptor).st_blocks * _SECTOR
            while here < wanted >= _LEAST:
                with suppress(OSError):
                    reserve(descriptor, 0, wanted)
                    break
                wanted //= 2
        finally:
            os.close(descriptor)


def with_reserve(layout: StoreLayout, step: Callable[[], _T]) -> _T:
    """Do ``step``, which writes a little; once more with the room of the reserve where there is none. The lock is held.

    Raises:
        StorageFullError: that was not enough, or there is no reserve.
    """
    try:
        return step()
    except StorageFullError:
        try:
            layout.reserve.unlink()
        except OSError:
            pass
        else:
            try:
                return step()
            finally:
                keep_reserve(layout)
        raise


def _wanted(layout: StoreLayout) -> int:
    """An index is written beside the one it replaces; a small disk is not there for this."""
    wanted = _ENOUGH
    with suppress(OSError):
        wanted += 2 * layout.index_document.stat().st_size
        disk = os.statvfs(layout.root)
        return min(wanted, disk.f_blocks * disk.f_frsize // 16)
    return wanted
