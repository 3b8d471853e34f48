"""Comparing files with their digests, in steps, so that it can be followed and stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.durability import is_damage
from dmr_adapters.model_store.maintenance.census import Found
from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import FindingKind

__all__ = ["Suspect", "compare"]

_STEP: Final = 64 * 1024 * 1024
_BLOCK: Final = 256 * 1024  # fits the cache that is next to the core


@attrs.frozen
class Suspect:
    """A file that is not what it is named, or could not be read. ``found`` tells whether it still is the same.

    ``may_pass``: reading it may succeed another time, as where too many files were open.
    """

    found: Found
    kind: FindingKind
    problem: str
    may_pass: bool = False


async def compare(
    jobs: Iterable[tuple[Found, Digest]], advance: Callable[[int, Path], None]
) -> tuple[dict[Path, Suspect], int]:
    """Hash files; those that differ, and how many bytes were read. ``advance`` is told of every step.

    Cancelled between two steps. Files that are gone are left out.
    """
    suspects: dict[Path, Suspect] = {}
    total = 0
    for found, expected in jobs:
        reader = _Reader(found.path)
        problem, kind, may_pass = "", FindingKind.BLOB_DAMAGED, False
        try:
            while count := await finish_in_thread(reader.step):
                total += count
                advance(count, found.path)
            if reader.digest.hexdigest() != expected.hex:
                problem = "is not what its digest says"
        except FileNotFoundError:
            continue
        except OSError as exc:
            kind, problem = FindingKind.BLOB_UNREADABLE, f"cannot be read: {exc.strerror or exc}"
            may_pass = not is_damage(exc)
        finally:
            reader.close()
        if problem:
            suspects[found.path] = Suspect(found, kind, problem, may_pass)
    return suspects, total


class _Reader:
    """Reads a file once, from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._buffer = bytearray(_BLOCK)
        self.digest = hashlib.sha256()
        self._position = 0

    def step(self) -> int:
        """Hash up to 64 MiB; how many bytes, 0 at the end.

        Raises:
            OSError: it cannot be read.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        done, view = 0, memoryview(self._buffer)
        while done < _STEP and (count := os.preadv(self._descriptor, [view], self._position)):
            self.digest.update(view[:count])
            self._position += count
            done += count
        return done

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
