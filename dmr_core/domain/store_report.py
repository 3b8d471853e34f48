"""What looking after a model store finds and does, as values."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs

from dmr_core.domain.digest import Digest

__all__ = [
    "CheckProgress",
    "CheckReport",
    "Collected",
    "Collection",
    "Finding",
    "FindingKind",
    "GarbageKind",
    "ModelUsage",
    "StoreUsage",
]


class GarbageKind(StrEnum):
    """What a collection removes."""

    MODEL = "untagged-model"
    """A model without a tag, or one that is complete and in no index."""
    BLOB = "unreferenced-blob"
    PARTIAL = "stale-partial"
    MANIFEST = "orphan-manifest"
    BUNDLE = "orphan-bundle"
    TEMPORARY = "temporary"
    QUARANTINE = "quarantined"


@attrs.frozen(kw_only=True)
class Collected:
    """So many things of one kind, and the bytes of the disk they take, or took."""

    kind: GarbageKind
    count: int
    size: int


@attrs.frozen(kw_only=True)
class Collection:
    """What a collection removed, or with ``dry_run`` would remove; kinds of which there was nothing are left out.

    ``models`` are those that are gone; ``kept`` says what was in use and stays for that reason alone, ``failed`` what the
    file system did not let go.
    """

    dry_run: bool
    collected: tuple[Collected, ...] = ()
    models: tuple[Digest, ...] = ()
    kept: int = 0
    failed: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many things."""
        return sum(entry.count for entry in self.collected)

    @property
    def size(self) -> int:
        """How many bytes of the disk."""
        return sum(entry.size for entry in self.collected)

    def of(self, kind: GarbageKind) -> Collected:
        """What there was of one kind."""
        return next((entry for entry in self.collected if entry.kind is kind), Collected(kind=kind, count=0, size=0))


class FindingKind(StrEnum):
    """What can be wrong with a store, or worth to be known about it."""

    BLOB_DAMAGED = "blob-damaged"
    """The right size, other bytes than its digest says."""
    BLOB_SIZE = "blob-size"
    """Shorter or longer than a manifest says."""
    BLOB_UNREADABLE = "blob-unreadable"
    BLOB_MISSING = "blob-missing"
    MANIFEST_MISSING = "manifest-missing"
    MANIFEST_DAMAGED = "manifest-damaged"
    INDEX_DAMAGED = "index-damaged"
    INDEX_MISSING = "index-missing"
    INDEX_ENTRY = "index-entry"
    LAYOUT = "layout"
    BUNDLE = "bundle"
    UNSUPPORTED = "unsupported"
    UNLISTED = "unlisted-model"
    GARBAGE = "garbage"
    QUARANTINE = "quarantined"
    FOREIGN = "foreign-file"

    @property
    def is_note(self) -> bool:
        """Whether it is only worth to be known: nothing is wrong with any model for that."""
        return self in _NOTES


_NOTES: Final = frozenset(
    {
        FindingKind.UNSUPPORTED,
        FindingKind.UNLISTED,
        FindingKind.GARBAGE,
        FindingKind.QUARANTINE,
        FindingKind.FOREIGN,
    }
)


@attrs.frozen(kw_only=True)
class Finding:
    """Something found. ``path`` is relative to the store; ``models`` are the names of those it touches.

    ``advice`` says what to do; ``repaired`` what was done about it, empty while it is as it was.
    """

    kind: FindingKind
    path: str
    problem: str
    models: tuple[str, ...] = ()
    advice: str = ""
    repaired: str = ""


@attrs.frozen(kw_only=True)
class CheckProgress:
    """How far a check is: bytes hashed, of those that there are to hash."""

    done: int
    total: int
    doing: str = ""


@attrs.frozen(kw_only=True)
class CheckReport:
    """What a check found. ``hashed`` counts the bytes that were compared with their digests."""

    findings: tuple[Finding, ...] = ()
    models: int = 0
    blobs: int = 0
    hashed: int = 0
    deep: bool = True

    @property
    def remaining(self) -> tuple[Finding, ...]:
        """What is wrong still."""
        return tuple(finding for finding in self.findings if not finding.kind.is_note and not finding.repaired)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong, or no longer."""
        return not self.remaining


@attrs.frozen(kw_only=True)
class ModelUsage:
    """Bytes of the disk a model takes: those that go when it goes, and those that other models need as well."""

    id: Digest
    tags: tuple[str, ...]
    unique: int
    shared: int

    @property
    def size(self) -> int:
        """All of them."""
        return self.unique + self.shared


@attrs.frozen(kw_only=True)
class StoreUsage:
    """Where the bytes of a store are. A file with several names counts once.

    ``bundles`` are files of bundles that are no links to blobs; ``unreferenced`` is what belongs to no model and is no partial;
    ``reclaimable`` is what a collection would give back, with everything that one may take.
    """

    total: int
    models: tuple[ModelUsage, ...] = ()
    bundles: int = 0
    partials: int = 0
    quarantine: int = 0
    unreferenced: int = 0
    reclaimable: int = 0
