"""Making a directory a model store, and clearing away what a killed process left."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from dmr_adapters.model_store.durability import disk_conditions, make_directories, write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.layout import LAYOUT_VERSION, StoreLayout
from dmr_adapters.model_store.lock import try_flock
from dmr_core.errors import PreconditionError, StoreUnwritableError

__all__ = ["prepare", "prepare_directories"]

_log: Final = logging.getLogger(__name__)
_PARTIAL_LIFETIME: Final = 7 * 24 * 3600.0
_VERSION: Final = re.compile(r"(\d{1,9})\.")
_MAJOR: Final = int(LAYOUT_VERSION.partition(".")[0])


def prepare_directories(layout: StoreLayout) -> None:
    """Create what every later step relies on.

    Raises:
        StoreUnwritableError: the directory cannot be made or written; the message says what to do.
        PreconditionError: a newer version wrote this store.
    """
    _check_version(layout)
    with disk_conditions(layout.root):
        for directory in (layout.ingest, layout.temporary, layout.blobs, layout.manifests):
            make_directories(directory)
        if not os.access(layout.root, os.W_OK | os.X_OK):
            raise StoreUnwritableError(
                f"cannot write the model store at {str(layout.root)!r}: give this user write access to it,"
                " or set MODELS_PATH to a directory that is writable"
            )


def prepare(layout: StoreLayout) -> None:
    """Create the documents that are missing and clear away leftovers. The store's lock is held."""
    with disk_conditions(layout.root):
        if not layout.layout_document.exists():
            _write(
                layout, layout.layout_document, orjson.dumps({"version": LAYOUT_VERSION}, option=orjson.OPT_INDENT_2)
            )
        if not layout.index_document.exists():
            _write(layout, layout.index_document, Index().encode())
    _sweep_temporary(layout.temporary)
    _sweep_partials(layout.ingest)


def _write(layout: StoreLayout, document: Path, data: bytes) -> None:
    write_durably(document, data, temporary=layout.temporary)


def _check_version(layout: StoreLayout) -> None:
    try:
        document: Any = orjson.loads(layout.layout_document.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, orjson.JSONDecodeError) as exc:
        # Nothing but this check reads it, neither here nor in the reference.
        _log.warning("ignoring %s: %s", layout.layout_document, exc)
        return
    version = document.get("version") if isinstance(document, dict) else None
    found = _VERSION.match(version) if isinstance(version, str) else None
    if found and int(found[1]) > _MAJOR:
        raise PreconditionError(
            f"the model store at {str(layout.root)!r} has layout {version}, and this dmr knows {LAYOUT_VERSION}:"
            " upgrade dmr, or set MODELS_PATH to another directory"
        )


def _sweep_temporary(directory: Path) -> None:
    """Delete what nobody is making any more, at once: its hard links keep deleted blobs on the disk."""
    for entry in _entries(directory):
        _delete_abandoned(entry)


def _sweep_partials(directory: Path) -> None:
    """Delete partial blobs that nobody came back for."""
    horizon = time.time() - _PARTIAL_LIFETIME
    for entry in _entries(directory):
        with suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime < horizon:
                _delete_abandoned(entry)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _delete_abandoned(entry: os.DirEntry[str]) -> None:
    """Delete a leftover, unless somebody has it locked: makers of partials and bundles lock what they make."""
    with suppress(OSError):
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if not try_flock(descriptor):
                return
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                os.unlink(entry)  # noqa: PTH108 - a directory entry is not a Path
        finally:
            os.close(descriptor)
