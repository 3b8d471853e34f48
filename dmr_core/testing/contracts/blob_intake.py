"""What every blob intake does."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError
from dmr_core.ports.blob_intake import BlobIntake
from dmr_core.ports.model_store import ModelStore

__all__ = ["BlobIntakeContract"]


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    """Chunks, one at a time."""
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


class BlobIntakeContract(ABC):
    """Subclass it, and make the intake and the store it writes to."""

    @abstractmethod
    @pytest.fixture
    def store(self) -> ModelStore:
        """An empty store."""

    @abstractmethod
    @pytest.fixture
    def intake(self, store: ModelStore) -> BlobIntake:
        """An intake of ``store``."""

    @pytest.mark.parametrize(
        "chunks", [(), (b"",), (b"one",), (b"one", b"", b"two"), (b"x" * 5_000_000, b"y" * 5_000_000)]
    )
    async def test_what_comes_is_a_blob(self, store: ModelStore, intake: BlobIntake, chunks: tuple[bytes, ...]) -> None:
        content = b"".join(chunks)
        digest = Digest.of(content)
        assert await intake.size(digest) is None
        async with store.lease((digest,)):
            assert await intake.take(digest, chunks_of(*chunks)) == len(content)
        assert await store.has_blob(digest)
        assert await intake.size(digest) == len(content)
        assert b"".join([chunk async for chunk in store.read_blob(digest)]) == content

    async def test_what_is_here_already_may_come_again(self, store: ModelStore, intake: BlobIntake) -> None:
        digest = Digest.of(b"one")
        for _ in range(2):
            assert await intake.take(digest, chunks_of(b"one")) == 3
        assert await store.has_blob(digest)

    async def test_what_is_not_what_it_says_leaves_nothing(self, store: ModelStore, intake: BlobIntake) -> None:
        digest = Digest.of(b"one")
        with pytest.raises(DigestMismatchError):
            await intake.take(digest, chunks_of(b"two"))
        assert not await store.has_blob(digest)
        assert await intake.take(digest, chunks_of(b"one")) == 3

    async def test_what_breaks_off_leaves_nothing(self, store: ModelStore, intake: BlobIntake) -> None:
        digest = Digest.of(b"onetwo")

        async def broken() -> AsyncIterator[bytes]:
            yield b"one"
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await intake.take(digest, broken())
        assert not await store.has_blob(digest)

    async def test_a_cancelled_one_leaves_nothing(self, store: ModelStore, intake: BlobIntake) -> None:
        digest = Digest.of(b"onetwo")
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"one"
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(intake.take(digest, endless()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await store.has_blob(digest)
