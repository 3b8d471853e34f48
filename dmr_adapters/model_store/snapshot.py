"""The models of the index in memory, for readers that must not touch the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from operator import is_
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.index import Index, IndexEntry
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.oci_json import MAX_DOCUMENT, decode_config, decode_manifest
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.errors import MalformedArtifactError, UnsupportedFormatError

__all__ = ["Snapshot", "SnapshotReader", "read_document"]

_log: Final = logging.getLogger(__name__)


@attrs.frozen
class Snapshot:
    """One state of the index, ready for look-ups."""

    models: tuple[Model, ...] = ()
    by_id: Mapping[Digest, Model] = attrs.field(factory=dict)
    by_tag: Mapping[str, Model] = attrs.field(factory=dict)

    @classmethod
    def of(cls, models: tuple[Model, ...]) -> Snapshot:
        """Index ``models`` by ID and by tag."""
        return cls(
            models,
            {model.id: model for model in models},
            {tag: model for model in models for tag in model.tags},
        )


class SnapshotReader:
    """Reads manifests and configs of the entries of an index, each once: a digest pins them."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._index: Index | None = None  # what ``latest`` shows, when all of it could be read
        self._latest = Snapshot()
        self._reported: set[Digest] = set()

    @property
    def latest(self) -> Snapshot:
        """What was read last."""
        return self._latest

    def read(self, index: Index) -> Snapshot:
        """Every model of ``index`` that can be read; the very same snapshot while nothing changes.

        An entry whose manifest or config is missing or malformed is left out with one warning: it
        may be in the middle of a repair, and it must not take the others with it.
        """
        if index is self._index:
            return self._latest
        entries = tuple(index.entries())
        found = tuple(model for model in map(self._model, entries) if model is not None)
        self._reported.intersection_update(entry.id for entry in entries)
        before = self._latest.models
        if len(found) != len(before) or not all(map(is_, found, before)):
            self._latest = Snapshot.of(found)
        self._index = index if len(found) == len(entries) else None
        return self._latest

    def _model(self, entry: IndexEntry) -> Model | None:
        known = self._latest.by_id.get(entry.id)
        if known is None:
            return self._load(entry)
        return known if known.tags == entry.tags else attrs.evolve(known, tags=entry.tags)

    def _load(self, entry: IndexEntry) -> Model | None:
        try:
            data = read_document(self._layout.manifest(entry.id))
            manifest = decode_manifest(data)
            config = decode_config(read_document(self._layout.blob(manifest.config.digest)))
        except (OSError, MalformedArtifactError, UnsupportedFormatError) as exc:
            if entry.id not in self._reported:
                self._reported.add(entry.id)
                _log.warning("model %s is left out: %s", entry.id.short, exc)
            return None
        return Model(id=entry.id, tags=entry.tags, manifest=manifest, config=config, manifest_size=len(data))


def read_document(path: Path) -> bytes:
    """A manifest or config; one that is too long comes back just long enough to be refused as such."""
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT + 1)
