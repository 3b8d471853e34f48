"""Settings of models in one JSON file, in the store's own directory.

A list of entries with the keys ``backend``, ``model``, ``mode`` and ``config``, the latter as on the wire. Writers hold a
lock and merge into what is there, so two services on one store do not undo each other's changes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dmr_adapters.model_store.durability import disk_conditions, write_durably
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.engine_document import engine_document, read_engine_document
from dmr_core.errors import DmrError
from dmr_core.ports.config_store import ConfigKey, ConfigStore

__all__ = ["FileConfigStore"]

_log: Final = logging.getLogger("dmr.config")


class FileConfigStore(ConfigStore):
    """Reads and writes ``path``; a file that cannot be read is set aside as ``config.broken``, or with a number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()

    async def load(self) -> Mapping[ConfigKey, EngineConfig]:
        """See :class:`ConfigStore`."""
        return await asyncio.to_thread(self._load)

    async def write(self, key: ConfigKey, config: EngineConfig | None) -> None:
        """See :class:`ConfigStore`."""
        async with self._writing:
            # Shielded: a caller that leaves must not leave a thread at work behind the lock's back.
            await asyncio.shield(asyncio.to_thread(self._write, key, config))

    def _load(self) -> dict[ConfigKey, EngineConfig]:
        found: dict[ConfigKey, EngineConfig] = {}
        for entry in self._entries():
            try:
                found[_key(entry)] = read_engine_document(entry["config"])
            except (DmrError, ValueError, KeyError, TypeError, AttributeError) as exc:
                _log.warning("settings in %s that cannot be read are ignored: %s: %.200r", self._path, exc, entry)
        return found

    def _entries(self) -> list[Any]:
        try:
            return _list(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            aside = _unused(self._path.with_suffix(".broken"))
            _log.warning("settings in %s cannot be read (%s); the file is kept as %s", self._path, exc, aside.name)
            try:
                self._path.replace(aside)
            except OSError as failure:
                _log.warning("it could not be moved: %s", failure)
            return []

    def _write(self, key: ConfigKey, config: EngineConfig | None) -> None:
        with disk_conditions(self._path.parent.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_suffix(".lock")):
                name = {"backend": key[0], "model": str(key[1]), "mode": key[2].value}
                kept = [entry for entry in self._entries() if not _is(entry, name)]
                if config is not None:
                    kept.append({**name, "config": engine_document(config)})
                content = json.dumps(kept, indent=1).encode()
                write_durably(self._path, content, temporary=self._path.parent)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unused(path: Path) -> Path:
    """``path``, or the first of its numbered kin that is not there: what was set aside before stays."""
    return next(
        name for name in (path, *(path.with_suffix(f".broken{n}") for n in range(2, 1000))) if not name.exists()
    )


def _list(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise TypeError("it holds no list")
    return document


def _key(entry: Mapping[str, Any]) -> ConfigKey:
    return str(entry["backend"]), Digest.parse(entry["model"]), EngineMode.parse(entry["mode"])


def _is(entry: Any, name: Mapping[str, str]) -> bool:
    return isinstance(entry, dict) and all(entry.get(part) == value for part, value in name.items())
