"""Mending a store. Nothing that could be the last copy of anything is deleted: it is set aside.

A model that lacks something leaves the index, because a model in the index is taken for complete, and never pulled again. Its
entry is set aside as well; so what it has is kept, and once it is complete it gets its tags back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import attrs
import orjson

from dmr_adapters.model_store.blobs import is_complete
from dmr_adapters.model_store.bundle import discard_bundle
from dmr_adapters.model_store.durability import disk_conditions, write_durably
from dmr_adapters.model_store.index import Index
from dmr_adapters.model_store.index_file import IndexFile
from dmr_adapters.model_store.layout import LAYOUT_VERSION, StoreLayout
from dmr_adapters.model_store.leases import leased_digests
from dmr_adapters.model_store.maintenance.marks import digests_in, readable_manifest
from dmr_adapters.model_store.maintenance.quarantine import Quarantine
from dmr_adapters.model_store.maintenance.survey import Fault, Survey
from dmr_adapters.model_store.removal import finish_removals
from dmr_core.domain.digest import Digest
from dmr_core.domain.store_report import FindingKind

__all__ = ["mend", "mend_documents"]

_BAD_BLOB: Final = frozenset({FindingKind.BLOB_DAMAGED, FindingKind.BLOB_SIZE, FindingKind.BLOB_UNREADABLE})
_BREAKING: Final = _BAD_BLOB | {
    FindingKind.BLOB_MISSING,
    FindingKind.MANIFEST_MISSING,
    FindingKind.MANIFEST_DAMAGED,
}


def mend_documents(layout: StoreLayout, faults: list[Fault]) -> dict[Fault, str]:
    """Make the layout and index documents readable again; what was done about which fault. The store's lock is held.

    Raises:
        StorageFullError, StoreUnwritableError: nothing was lost.
    """
    done: dict[Fault, str] = {}
    with disk_conditions(layout.root):
        for fault in faults:
            if fault.kind is FindingKind.LAYOUT:
                content = orjson.dumps({"version": LAYOUT_VERSION}, option=orjson.OPT_INDENT_2)
                write_durably(layout.layout_document, content, temporary=layout.temporary)
                done[fault] = "written anew"
            elif fault.kind is FindingKind.INDEX_MISSING:
                IndexFile(layout).write(Index())
                done[fault] = "written anew"
            elif fault.kind is FindingKind.INDEX_DAMAGED:
                aside = Quarantine(layout).put_index()
                records = tuple(_salvaged(aside.read_bytes()))
                IndexFile(layout).write(Index(records=records))
                done[fault] = (
                    f"{len(records)} entries were saved; the damaged index is {aside.name!r} in the quarantine"
                )
    return done


def mend(found: Survey, faults: list[Fault]) -> dict[Fault, str]:
    """Mend what can be mended; what was done about which fault. The store's lock is held.

    Raises:
        StorageFullError, StoreUnwritableError: what was done until then stands; nothing was lost.
    """
    with disk_conditions(found.layout.root):
        return _Mending(found).run(faults)


class _Mending:
    """One repair."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._layout = found.layout
        self._quarantine = Quarantine(found.layout)
        self._leased = leased_digests(found.layout, sweep=True)
        self._index = found.index
        self._done: dict[Fault, str] = {}

    def run(self, faults: list[Fault]) -> dict[Fault, str]:
        if not any(fault.kind in {FindingKind.INDEX_DAMAGED, FindingKind.INDEX_MISSING} for fault in faults):
            finish_removals(self._layout, self._index)
        for fault in faults:
            if fault.kind in _BAD_BLOB and fault.digest is not None and not self._is_spared(fault):
                self._set_blob_aside(fault, fault.digest)
        broken: dict[Digest, list[Fault]] = {}
        for fault in faults:
            if fault.kind in _BREAKING and not self._is_spared(fault):
                for model_id in fault.models:
                    broken.setdefault(model_id, []).append(fault)
        for model_id, reasons in broken.items():
            self._set_model_aside(model_id, reasons)
        for fault in faults:
            if fault.kind is FindingKind.BUNDLE and not self._is_spared(fault):
                for model_id in fault.models:
                    discard_bundle(self._layout, model_id)
                self._done[fault] = "the bundle was removed; it is made anew on the next use"
            elif fault.kind is FindingKind.INDEX_ENTRY:
                self._set_nameless_aside()
                self._done[fault] = "set aside"
        self._give_back(faults)
        if self._index is not self._found.index:
            IndexFile(self._layout).write(self._index)
        return self._done

    def _is_spared(self, fault: Fault) -> bool:
        """Whether nothing is to be done about it now: somebody uses what it is about, or it may be nothing."""
        if fault.may_pass:
            return True
        digests = fault.models | ({fault.digest} if fault.digest is not None else set())
        return bool(digests & self._leased)

    def _set_blob_aside(self, fault: Fault, digest: Digest) -> None:
        if fault.path.exists() or fault.path.is_symlink():
            self._quarantine.put_blob(digest)
        self._done[fault] = "set aside"

    def _set_model_aside(self, model_id: Digest, reasons: list[Fault]) -> None:
        manifest = self._layout.manifest(model_id)
        if any(reason.kind is FindingKind.MANIFEST_DAMAGED for reason in reasons) and not _is_genuine(
            self._layout, model_id
        ):
            self._quarantine.put_manifest(model_id)
        why = "; ".join(f"{reason.path.relative_to(self._layout.root)} {reason.problem}" for reason in reasons)
        for record in self._index.records:
            if isinstance(record, dict) and record.get("id") == str(model_id):
                self._quarantine.put_entry(record, why)
        self._index = self._index.without_model(model_id)
        # Its links may be to what was set aside.
        discard_bundle(self._layout, model_id)
        for reason in reasons:
            done = "set aside; " if reason.kind in _BAD_BLOB or reason.path == manifest else ""
            self._done[reason] = f"{done}the model was taken out of the index until it is complete again"

    def _set_nameless_aside(self) -> None:
        kept = []
        for record in self._index.records:
            if next(Index(records=(record,)).entries(), None) is None:
                self._quarantine.put_entry(record, "the entry names no model")
            else:
                kept.append(record)
        if len(kept) < len(self._index.records):
            self._index = attrs.evolve(self._index, records=tuple(kept))

    def _give_back(self, faults: list[Fault]) -> None:
        """Put models that are complete into the index: with their tags where they are known, unless others have them now."""
        taken = {tag for entry in self._index.entries() for tag in entry.tags}
        for path, record in self._quarantine.entries():
            entry = next(Index(records=(record,)).entries(), None)
            if entry is None or not self._restore(entry.id):
                continue
            for tag in entry.tags:
                if tag not in taken:
                    taken.add(tag)
                    self._index = self._index.with_tag(entry.id, tag)
            IndexFile(self._layout).write(self._index)  # before the entry is gone from here
            path.unlink()
        for fault in faults:
            if fault.kind is FindingKind.UNLISTED:
                restored = [self._restore(model_id) for model_id in fault.models]
                if all(restored):
                    self._done[fault] = "is in the index again"

    def _restore(self, model_id: Digest) -> bool:
        """Have a model in the index, if it is complete."""
        manifest = readable_manifest(self._layout, model_id)
        if manifest is None or not all(
            is_complete(self._layout.blob(blob.digest), blob.size) for blob in manifest.blobs
        ):
            return False
        self._index = self._index.with_model(model_id, tuple(blob.digest for blob in manifest.blobs))
        return True


def _is_genuine(layout: StoreLayout, model_id: Digest) -> bool:
    try:
        return Digest.of(layout.manifest(model_id).read_bytes()) == model_id
    except FileNotFoundError:
        return True  # nothing to set aside
    except OSError:
        return False


def _salvaged(data: bytes) -> Iterator[dict[str, Any]]:
    """The entries that are whole in an index that is not: one that was cut off, or written over in part."""
    text, decoder, position = data.decode("utf-8", "replace"), json.JSONDecoder(), 0
    known: set[Digest] = set()
    while (position := text.find("{", position)) >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        entry = next(Index(records=(value,)).entries(), None)
        if entry is None:
            position += 1  # the whole document, perhaps: its entries are inside it
            continue
        position = end
        if entry.id not in known and digests_in(orjson.dumps(value)):
            known.add(entry.id)
            yield value
