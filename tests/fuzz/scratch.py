"""Files for parsers that read files: in memory, made once, written anew for every input."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["MEMORY", "SCRATCH", "emptied", "put"]

MEMORY = Path("/dev/shm")
SCRATCH = "DMR_FUZZ_SCRATCH"
"""Names the directory in the environment of a process that may die before it has cleared away."""


@cache
def _directory() -> Path:
    if (given := os.environ.get(SCRATCH)) is not None:
        return Path(given)
    directory = Path(tempfile.mkdtemp(prefix="dmr-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def put(name: str, data: bytes) -> Path:
    """A file with these bytes."""
    path = _directory() / name
    path.write_bytes(data)
    return path


def emptied(name: str) -> Path:
    """A directory with nothing in it."""
    path = _directory() / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path
