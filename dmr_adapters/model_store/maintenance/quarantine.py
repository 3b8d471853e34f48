"""What a repair sets aside, in ``.dmr/quarantine``: nothing that was the user's is deleted on a suspicion.

``blob-<hex>.<n>`` and ``manifest-<hex>.<n>`` are damaged files, ``index-<n>.json`` a damaged index, and ``entry-<n>.json`` an
entry of the index whose model is incomplete: ``{"record": …, "reason": …}``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from dmr_adapters.model_store.durability import make_directories, sync_directory, write_durably
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.snapshot import read_document
from dmr_core.domain.digest import Digest

__all__ = ["Quarantine", "damaged_blob", "is_entry"]

_ENTRY: Final = re.compile(r"entry-.+\.json")
_BLOB: Final = re.compile(r"blob-([0-9a-f]{64})\..+")


class Quarantine:
    """The quarantine of one store. The store's lock is held."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

    def put_blob(self, digest: Digest) -> Path:
        """Move a blob here; where it is now."""
        return self._move(self._layout.blob(digest), f"blob-{digest.hex}.")

    def put_manifest(self, model_id: Digest) -> Path:
        """Move a manifest here."""
        return self._move(self._layout.manifest(model_id), f"manifest-{model_id.hex}.")

    def put_index(self) -> Path:
        """Keep a copy of the index as it is; it is replaced, never missing."""
        target = self._place("index-", ".json")
        write_durably(target, self._layout.index_document.read_bytes(), temporary=self._layout.temporary)
        return target

    def put_entry(self, record: Any, reason: str) -> Path:
        """Keep an entry of the index."""
        target = self._place("entry-", ".json")
        data = orjson.dumps({"record": record, "reason": reason}, option=orjson.OPT_INDENT_2)
        write_durably(target, data, temporary=self._layout.temporary)
        return target

    def entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The entries that are kept and can be read."""
        for path in sorted(self._layout.quarantine.glob("entry-*.json")):
            try:
                document = orjson.loads(read_document(path))
            except (OSError, orjson.JSONDecodeError):
                continue
            record = document.get("record") if isinstance(document, dict) else None
            if isinstance(record, dict):
                yield path, record

    def _move(self, source: Path, prefix: str) -> Path:
        target = self._place(prefix, "")
        source.rename(target)
        sync_directory(target.parent)
        sync_directory(source.parent)
        return target

    def _place(self, prefix: str, suffix: str) -> Path:
        make_directories(self._layout.quarantine)
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=self._layout.quarantine)
        os.close(descriptor)
        return Path(name)


def is_entry(path: Path) -> bool:
    """Whether this is an entry that was set aside."""
    return _ENTRY.fullmatch(path.name) is not None


def damaged_blob(path: Path) -> Digest | None:
    """Of which blob this is a damaged copy."""
    match = _BLOB.fullmatch(path.name)
    return Digest(match[1]) if match else None
