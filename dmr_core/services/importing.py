"""Packaging straight into a store: files are imported while they are hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dmr_core.domain.artifact import Format
from dmr_core.domain.paths import RelativePath
from dmr_core.ports.blob_import import BlobImport
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata

__all__ = ["ImportingSource"]


class ImportingSource(PackageSource):
    """Another source, whose files an import takes in as they are described."""

    def __init__(self, source: PackageSource, importing: BlobImport) -> None:
        self._source = source
        self._import = importing

    async def walk(self, directory: Path) -> tuple[RelativePath, ...]:
        return await self._source.walk(directory)

    async def shards(self, path: Path) -> tuple[Path, ...]:
        return await self._source.shards(path)

    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        return await self._import.take(path, name, read)

    async def metadata(self, files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
        return await self._source.metadata(files, fmt)
