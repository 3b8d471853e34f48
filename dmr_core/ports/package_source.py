"""Files on disk that are to become a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from dmr_core.domain.artifact import Format
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath

__all__ = ["PackageSource", "SourceFile", "WeightsMetadata"]


@attrs.frozen(kw_only=True)
class SourceFile:
    """One file, hashed. ``mode`` is the permission bits, ``mtime_ns`` nanoseconds since the epoch."""

    path: Path
    name: RelativePath
    digest: Digest
    size: int
    mode: int
    mtime_ns: int


@attrs.frozen(kw_only=True)
class WeightsMetadata:
    """What the headers of weight files say, as strings for people; ``raw`` is the header's own keys."""

    parameters: str = ""
    quantization: str = ""
    architecture: str = ""
    size: str = ""
    context_size: int | None = None
    raw: Mapping[str, str] = attrs.field(factory=dict)


class PackageSource(Protocol):
    """Reads files for packaging. Paths are absolute; nothing is ever written."""

    @abstractmethod
    async def walk(self, directory: Path) -> tuple[RelativePath, ...]:
        """Every regular file below ``directory`` in lexical order; hidden ones and symbolic links left out.

        Raises:
            InvalidRequestError: there is no such directory.
        """

    @abstractmethod
    async def shards(self, path: Path) -> tuple[Path, ...]:
        """``path`` and, where its name is ``…-00001-of-0000N…``, its siblings, in order.

        Raises:
            InvalidRequestError: the file, or a shard, is missing; names it.
        """

    @abstractmethod
    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        """Size, times and digest of a file; ``read`` is told the bytes hashed so far.

        Raises:
            InvalidRequestError: there is no such file, or it cannot be read.
        """

    @abstractmethod
    async def metadata(self, files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
        """What the headers of these weight files say, each taken under its ``name``.

        The ``config.json`` of a safetensors model may be among ``files``.

        Raises:
            MalformedArtifactError: a header breaks its format; says which file and where.
        """
