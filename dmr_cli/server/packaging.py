"""The part of the composition root that ``dmr package`` uses in its own process: no network, no service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dmr_adapters.model_store.importing import FilesystemBlobImporter
from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.repackage import Changes
from dmr_core.ports.blob_import import Ahead, BlobImport
from dmr_core.services.importing import ImportingSource
from dmr_core.services.packaging import PackagingService

__all__ = ["build_packaging", "importing_packaging", "revised"]


def build_packaging() -> PackagingService:
    """Packaging that leaves the files where they are."""
    return PackagingService(FilesystemPackageSource())


@asynccontextmanager
async def importing_packaging(
    models_path: Path, *, link: bool, ahead: Ahead | None = None
) -> AsyncIterator[tuple[PackagingService, BlobImport]]:
    """Packaging that takes the files into the store at ``models_path`` as it goes; works beside services."""
    async with FilesystemBlobImporter(models_path).begin(link=link, ahead=ahead) as importing:
        yield PackagingService(ImportingSource(FilesystemPackageSource(), importing)), importing


def revised(manifest: bytes, config: bytes, changes: Changes) -> Artifact:
    """The model with these documents once ``changes`` are made; see :func:`dmr_core.services.repackaging.revise`."""
    from dmr_adapters.oci_json import decode_config, decode_manifest  # noqa: PLC0415 - for models made of models alone
    from dmr_core.services.repackaging import revise  # noqa: PLC0415 - as above

    return revise(manifest, config, changes, decode_manifest=decode_manifest, decode_config=decode_config)
