"""The models of the index in memory, for readers that must not touch the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.index import Index, IndexEntry
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.oci_json import MAX_DOCUMENT, decode_config, decode_manifest
from dmr_core.domain.artifact import Manifest, ModelConfig
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


@attrs.frozen
class _Documents:
    """What the disk says about a model; its digest pins it, so it is read once."""

    manifest: Manifest
    config: ModelConfig
    manifest_size: int


class SnapshotReader:
    """Reads manifests and configs of the entries of an index, each once."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._known: dict[Digest, _Documents] = {}
        self._reported: set[Digest] = set()

    def read(self, index: Index) -> Snapshot:
        """Every model of ``index`` that can be read.

        An entry whose manifest or config is missing or malformed is left out with one warning: it
        may be in the middle of a repair, and it must not take the others with it.
        """
        entries = tuple(index.entries())
        known, self._known = self._known, {}
        for entry in entries:
            documents = known.get(entry.id) or self._load(entry.id)
            if documents is not None:
                self._known[entry.id] = documents
        self._reported.intersection_update(entry.id for entry in entries)
        return Snapshot.of(tuple(self._model(entry) for entry in entries if entry.id in self._known))

    def _model(self, entry: IndexEntry) -> Model:
        documents = self._known[entry.id]
        return Model(
            id=entry.id,
            tags=entry.tags,
            manifest=documents.manifest,
            config=documents.config,
            manifest_size=documents.manifest_size,
        )

    def _load(self, model_id: Digest) -> _Documents | None:
        try:
            data = read_document(self._layout.manifest(model_id))
            manifest = decode_manifest(data)
            config = decode_config(read_document(self._layout.blob(manifest.config.digest)))
        except (OSError, MalformedArtifactError, UnsupportedFormatError) as exc:
            if model_id not in self._reported:
                self._reported.add(model_id)
                _log.warning("model %s is left out: %s", model_id.short, exc)
            return None
        return _Documents(manifest, config, len(data))


def read_document(path: Path) -> bytes:
    """A manifest or config; one that is too long comes back just long enough to be refused as such."""
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT + 1)
