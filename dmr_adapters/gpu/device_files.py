"""The device files a kernel driver makes, one for each device.

A directory listing: it costs nothing where the hardware is absent, and cannot hang.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["numbered_files"]


def numbered_files(folder: Path, prefix: str) -> tuple[str, ...]:
    """Names that are ``prefix`` and a number, by that number: 10 comes after 2."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names, not paths
    except OSError:
        return ()
    numbers = {
        name: name.removeprefix(prefix) for name in names if name.startswith(prefix) and len(name) < len(prefix) + 6
    }
    return tuple(
        sorted(
            (name for name, number in numbers.items() if number.isascii() and number.isdigit()),
            key=lambda name: int(numbers[name]),
        )
    )
