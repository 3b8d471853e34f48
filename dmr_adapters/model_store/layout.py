"""Where everything in the store is. Only digests and file names of ours build paths."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.digest import Digest

__all__ = ["LAYOUT_VERSION", "StoreLayout"]

LAYOUT_VERSION: Final = "1.0.0"


@attrs.frozen
class StoreLayout:
    """Paths below ``root``, which is absolute.

    ``blobs``, ``manifests``, ``bundles`` and the two documents are shared with the reference runner;
    ``.dmr`` is ours alone.
    """

    root: Path

    @property
    def layout_document(self) -> Path:
        """Says which layout this is."""
        return self.root / "layout.json"

    @property
    def index_document(self) -> Path:
        """Lists the models."""
        return self.root / "models.json"

    @property
    def lock_file(self) -> Path:
        """Held while the index changes."""
        return self.root / ".dmr" / "lock"

    @property
    def ingest(self) -> Path:
        """Blobs on their way in, one file each, named by the digest they are to have."""
        return self.root / ".dmr" / "ingest"

    @property
    def temporary(self) -> Path:
        """Files and directories being made; they leave by a rename."""
        return self.root / ".dmr" / "tmp"

    @property
    def leases(self) -> Path:
        """What is being used, one file for each user; see :mod:`dmr_adapters.model_store.leases`."""
        return self.root / ".dmr" / "leases"

    @property
    def quarantine(self) -> Path:
        """What a repair set aside."""
        return self.root / ".dmr" / "quarantine"

    @property
    def removals(self) -> Path:
        """Marks of models whose files are being deleted, named by their IDs."""
        return self.root / ".dmr" / "removals"

    @property
    def reserve(self) -> Path:
        """Room for making room; see :mod:`dmr_adapters.model_store.reserve`."""
        return self.root / ".dmr" / "reserve"

    @property
    def blobs(self) -> Path:
        """Complete blobs, and the reference's partial ones."""
        return self.root / "blobs" / "sha256"

    @property
    def manifests(self) -> Path:
        """Manifests, one for each model."""
        return self.root / "manifests" / "sha256"

    @property
    def bundles(self) -> Path:
        """What engines read."""
        return self.root / "bundles" / "sha256"

    def blob(self, digest: Digest) -> Path:
        """A complete blob."""
        return self.blobs / digest.hex

    def partial(self, digest: Digest) -> Path:
        """Our partial of a blob: a prefix of it, or what its journal says."""
        return self.ingest / digest.hex

    def journal(self, digest: Digest) -> Path:
        """Which parts of our partial are there, while it has gaps."""
        return self.ingest / f"{digest.hex}.parts"

    def reference_partial(self, digest: Digest) -> Path:
        """The reference's partial of a blob: a prefix too. Adopted, never written."""
        return self.blobs / f"{digest.hex}.incomplete"

    def manifest(self, model_id: Digest) -> Path:
        """The raw manifest of a model."""
        return self.manifests / model_id.hex

    def bundle(self, model_id: Digest) -> Path:
        """The bundle of a model."""
        return self.bundles / model_id.hex
