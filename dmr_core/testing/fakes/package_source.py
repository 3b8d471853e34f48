"""Files to be packaged, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.artifact import Format
from dmr_core.domain.digest import Digest
from dmr_core.domain.files import Shard, weights_format
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata

__all__ = ["InMemoryPackageSource"]

_BLOCK: Final = 1024 * 1024
_GGUF: Final = b"GGUF"
_LENGTH: Final = 8


@attrs.frozen
class _File:
    content: bytes
    mode: int
    mtime_ns: int


class InMemoryPackageSource(PackageSource):
    """Files that :meth:`put` made up.

    Features:
        - the whole contract of the port; there are no symbolic links;
        - headers are looked at no further than their first bytes: what they say is :attr:`says`.
    """

    def __init__(self, says: WeightsMetadata | None = None) -> None:
        self.says = says or WeightsMetadata()
        self._files: dict[Path, _File] = {}

    def put(self, path: Path, content: bytes, *, mode: int = 0o644, mtime_ns: int = 0) -> Path:
        """Make a file, or replace it."""
        self._files[path] = _File(content, mode, mtime_ns)
        return path

    async def walk(self, directory: Path) -> tuple[RelativePath, ...]:
        below = [path.relative_to(directory) for path in self._files if directory in path.parents]
        if not below:
            raise InvalidRequestError(f"no such directory: {str(directory)!r}")
        visible = [path for path in below if not any(part.startswith(".") for part in path.parts)]
        visible.sort(key=lambda path: [part.encode() for part in path.parts])
        return tuple(RelativePath.parse(str(path)) for path in visible)

    async def shards(self, path: Path) -> tuple[Path, ...]:
        self._file(path)
        shard = Shard.of(path.name)
        if shard is None:
            return (path,)
        if not shard.is_consistent:
            raise InvalidRequestError(f"{str(path)!r} calls itself shard {shard.number} of {shard.total}")
        siblings = tuple(path.parent / name for name in shard.names)
        for sibling in siblings:
            if sibling not in self._files:
                raise InvalidRequestError(f"incomplete shard set: {sibling.name!r} is missing")
        return siblings

    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        file = self._file(path)
        size = len(file.content)
        if read is not None:
            for done in range(_BLOCK, size, _BLOCK):
                read(done)
            if size:
                read(size)
        return SourceFile(
            path=path,
            name=name,
            digest=Digest.of(file.content),
            size=size,
            mode=file.mode,
            mtime_ns=file.mtime_ns,
        )

    async def metadata(self, files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
        for file in files:
            content = self._file(file.path).content
            if weights_format(file.name.text) is not fmt:
                continue
            if fmt is Format.GGUF and not content.startswith(_GGUF):
                raise MalformedArtifactError(f"malformed GGUF file {str(file.path)!r} at byte 0: not a GGUF file")
            if fmt is Format.SAFETENSORS and int.from_bytes(content[:_LENGTH], "little") > len(content) - _LENGTH:
                raise MalformedArtifactError(f"malformed safetensors file {str(file.path)!r} at byte 8: cut off")
        return self.says

    def _file(self, path: Path) -> _File:
        if path not in self._files:
            raise InvalidRequestError(f"cannot open {str(path)!r}: no such file")
        return self._files[path]
