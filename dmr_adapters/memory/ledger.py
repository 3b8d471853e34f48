"""The footprint ledger: one JSON file in the store's own directory."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.durability import write_durably
from dmr_core.domain.memory import Memory
from dmr_core.ports.memory import FootprintLedger

__all__ = ["FileFootprintLedger"]

_log: Final = logging.getLogger("dmr.memory")
_MOST: Final = 1000
_GROWTH: Final = 1.01
"""A file is not written again for less than this."""


class FileFootprintLedger(FootprintLedger):
    """Keeps the latest thousand names. Read once; a file that cannot be read is one that knows nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._writing = asyncio.Lock()

    def get(self, name: str) -> Memory | None:
        """See :class:`FootprintLedger`."""
        return self._known.get(name)

    async def record(self, name: str, seen: Memory) -> None:
        """See :class:`FootprintLedger`."""
        known = self._known.get(name)
        if known is not None and seen.host <= known.host * _GROWTH and seen.device <= known.device * _GROWTH:
            return
        self._known.pop(name, None)
        self._known[name] = seen if known is None else seen.at_least(known)
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        async with self._writing:
            document = {name: [memory.host, memory.device] for name, memory in self._known.items()}
            try:
                await asyncio.to_thread(_write, self._path, document)
            except OSError as exc:
                _log.warning("footprints could not be written to %s: %s", self._path, exc)


def _write(path: Path, document: dict[str, list[int]]) -> None:
    write_durably(path, json.dumps(document).encode(), temporary=path.parent)


def _read(path: Path) -> dict[str, Memory]:
    try:
        document = json.loads(path.read_bytes())
        return {
            str(name): Memory(_amount(host), _amount(device))
            for name, (host, device) in list(document.items())[-_MOST:]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        _log.warning("footprints in %s cannot be read, and are learnt anew: %s", path, exc)
        return {}


def _amount(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number of bytes")
    return value
