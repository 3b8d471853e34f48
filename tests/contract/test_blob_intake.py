"""The intake of the file system, and the one for any store, against one contract."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.intake import FilesystemBlobIntake
from dmr_core.domain.digest import Digest
from dmr_core.domain.spans import Span, SpanSet
from dmr_core.errors import InvalidRequestError
from dmr_core.ports.blob_intake import BlobIntake
from dmr_core.ports.model_store import ModelStore
from dmr_core.services.creating import BufferedBlobIntake
from dmr_core.testing.contracts.blob_intake import BlobIntakeContract, chunks_of
from dmr_core.testing.fakes.model_store import InMemoryModelStore


class TestFilesystemBlobIntake(BlobIntakeContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> ModelStore:
        return await FilesystemModelStore.open(tmp_path)

    @pytest.fixture
    async def intake(self, store: ModelStore, tmp_path: Path) -> AsyncIterator[BlobIntake]:
        yield FilesystemBlobIntake(tmp_path)
        assert not list((tmp_path / ".dmr" / "tmp").glob("intake.*")), "temporary files stay behind"

    async def test_cancelled_at_its_first_step_it_leaves_nothing_open(self, intake: BlobIntake) -> None:
        before = len(os.listdir("/dev/fd"))
        for _ in range(5):
            task = asyncio.ensure_future(intake.take(Digest.of(b"one"), chunks_of(b"one")))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(os.listdir("/dev/fd")) == before

    async def test_a_blob_that_was_cut_short_is_replaced(self, store: ModelStore, tmp_path: Path) -> None:
        digest = Digest.of(b"one")
        path = store.blob_file(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"o")
        await FilesystemBlobIntake(tmp_path).take(digest, chunks_of(b"one"))
        assert path.read_bytes() == b"one"


class TestBufferedBlobIntake(BlobIntakeContract):
    @pytest.fixture
    def store(self) -> ModelStore:
        return InMemoryModelStore()

    @pytest.fixture
    def intake(self, store: ModelStore) -> BlobIntake:
        return BufferedBlobIntake(store)

    async def test_what_was_begun_before_is_begun_anew(self) -> None:
        store, digest = InMemoryModelStore(), Digest.of(b"one")
        store.partials[digest] = bytearray(b"x")
        store.here[digest] = SpanSet.of([Span(0, 1)])
        await BufferedBlobIntake(store).take(digest, chunks_of(b"one"))
        assert store.blobs[digest] == b"one"

    async def test_it_takes_no_more_than_memory_is_for(self, store: ModelStore, intake: BlobIntake) -> None:
        with pytest.raises(InvalidRequestError, match="no blobs of more than"):
            await intake.take(Digest.of(b""), chunks_of(*[b"x" * 34_000_000] * 2))
