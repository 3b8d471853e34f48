"""How much of the disk the store takes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["disk_usage"]


def disk_usage(root: Path) -> int:
    """Bytes of all regular files below ``root``; a file with several names, as in bundles, counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 - a Path for every file takes longer
            except FileNotFoundError:
                continue  # deleted meanwhile
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode) and identity not in seen:
                seen.add(identity)
                total += status.st_size
    return total
