"""Which files are needed: what the index lists, what manifests name, what is leased, what a repair wants to give back.

Digests are looked for in the bytes of these documents, not in what could be understood of them. So an entry of a newer
version, or a manifest that is half unreadable, keeps everything it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs
import orjson

from dmr_adapters.model_store.blobs import is_complete
from dmr_adapters.model_store.durability import is_damage
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.maintenance.census import Census
from dmr_adapters.model_store.maintenance.quarantine import is_entry
from dmr_adapters.model_store.snapshot import read_document
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.artifact import Manifest
from dmr_core.domain.digest import Digest
from dmr_core.errors import MalformedArtifactError, UnsupportedFormatError

__all__ = ["Marks", "digests_in", "listed_files", "mark", "quarantined_needs", "readable_manifest", "unlisted"]

_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")


@attrs.frozen
class Marks:
    """What must stay. ``models`` are IDs whose manifest and bundle stay, ``blobs`` digests whose blob does."""

    models: frozenset[Digest]
    blobs: frozenset[Digest]


def mark(
    layout: StoreLayout, index: Index, census: Census, *, leased: frozenset[Digest], also: Iterable[Digest] = ()
) -> Marks:
    """What ``index``, the leases, and the models ``also`` need; quarantined entries are the caller's to add to ``also``."""
    named = digests_in(orjson.dumps(list(index.records)))
    models = named | leased | frozenset(also)
    blobs = set(models)
    for model_id in models & census.manifests.keys():
        blobs |= digests_in(_content(layout.manifest(model_id)))
    return Marks(models, frozenset(blobs))


def quarantined_needs(census: Census) -> frozenset[Digest]:
    """What the entries that a repair set aside name."""
    files = (found.path for found in census.quarantine if is_entry(found.path))
    return frozenset().union(*(digests_in(_content(path)) for path in files))


def unlisted(layout: StoreLayout, index: Index, census: Census) -> tuple[Digest, ...]:
    """Models that are complete, and in no index: it was lost, or somebody died while adding or removing them."""
    known = digests_in(orjson.dumps(list(index.records)))
    found = []
    for model_id in census.manifests.keys() - known:
        manifest = readable_manifest(layout, model_id)
        if manifest is not None and all(is_complete(layout.blob(blob.digest), blob.size) for blob in manifest.blobs):
            found.append(model_id)
    return tuple(sorted(found))


def listed_files(index: Index) -> dict[str, frozenset[Digest]]:
    """What each entry names, by the ID it has."""
    records = (record for record in index.records if isinstance(record, dict) and isinstance(record.get("id"), str))
    return {record["id"]: digests_in(orjson.dumps(record)) for record in records}


def readable_manifest(layout: StoreLayout, model_id: Digest) -> Manifest | None:
    """The manifest of a model, if it is what its name says and can be used together with its config.

    Raises:
        OSError: nobody can tell now.
    """
    try:
        data = read_document(layout.manifest(model_id))
        if Digest.of(data) != model_id:
            return None
        manifest = decode_manifest(data)
        decode_config(read_document(layout.blob(manifest.config.digest)))
    except (MalformedArtifactError, UnsupportedFormatError):
        return None
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) or is_damage(exc):
            return None
        raise
    return manifest


def digests_in(data: bytes) -> frozenset[Digest]:
    """Every digest that ``data`` names, in whatever way."""
    return frozenset(Digest(found.decode()) for found in _DIGEST.findall(data))


def _content(path: Path) -> bytes:
    try:
        return read_document(path)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) or is_damage(exc):
            return b""
        raise  # what it names must not be taken for garbage
