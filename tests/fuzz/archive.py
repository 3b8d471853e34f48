"""Archives of models that somebody sends, and tar layers of older artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from dmr_adapters.model_store.archive import unpack
from dmr_core.domain.archive import read_archive
from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from tests.fuzz.scratch import emptied, put

__all__ = ["target"]

_PIECE = 700  # not a multiple of a block, so that every seam is met


def target(data: bytes) -> None:
    """Read it as an archive and unpack it as a layer; every entry is as long as it says, and nothing leaves its place."""
    with suppress(MalformedArtifactError):
        asyncio.run(_read(data))
    directory = emptied("unpacked")
    with suppress(MalformedArtifactError, InvalidRequestError):
        unpack(put("layer.tar", data), directory)
    for path in directory.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or path.is_file()


async def _read(data: bytes) -> None:
    async for entry in read_archive(_pieces(data)):
        length = 0
        async for chunk in entry.chunks:
            length += len(chunk)
        assert length == entry.size
        assert entry.name.under(Path("/x")).is_relative_to("/x")


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), _PIECE):
        yield data[begin : begin + _PIECE]
