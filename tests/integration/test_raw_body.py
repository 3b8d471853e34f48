"""Bodies that go from their socket to the disk in threads: the same bytes, and the same ends, as any other way."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.receiving import Receiver
from dmr_adapters.registry.raw_body import RawBody, take_over
from dmr_core.domain.spans import Span
from dmr_core.errors import DmrError, RegistryUnreachableError, StorageFullError
from dmr_core.testing.contracts.model_store import layer_of

_MIB: Final = 1024 * 1024
_BLOB: Final = os.urandom(9 * _MIB + 12345)
_LAYER: Final = layer_of(_BLOB)
_MEMORY: Final = Path("/dev/shm")
_HAS_MEMORY: Final = _MEMORY.is_dir()

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _answer(serve: Serve, *, length: int = len(_BLOB)) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer whose head was read; ``serve`` sends the body."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
        try:
            await serve(writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/") as answer:
            yield answer
            answer.close()
        await served.wait()
    finally:
        server.close()
        await server.wait_closed()


def _sender(content: bytes) -> Serve:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return serve


def _taken(answer: aiohttp.ClientResponse, count: int = len(_BLOB), stall: float = 30.0) -> RawBody:
    body = take_over(answer, count, stall)
    assert body is not None
    return body


@pytest.fixture(params=["disk", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FilesystemModelStore]:
    """A store on the disk, and one on a file system that may know no direct writes."""
    if request.param == "disk":
        yield await FilesystemModelStore.open(tmp_path / "models")
        return
    shared = _MEMORY
    if not _HAS_MEMORY:
        pytest.skip("there is no /dev/shm")
    root = Path(tempfile.mkdtemp(prefix="dmr-test-", dir=shared))
    try:
        yield await FilesystemModelStore.open(root)
    finally:
        shutil.rmtree(root)


async def _read(store: FilesystemModelStore) -> bytes:
    return b"".join([chunk async for chunk in store.read_blob(_LAYER.digest)])


@pytest.mark.parametrize("start", [0, 1, 4096, 5000, _MIB, _MIB + 4095])
async def test_the_bytes_are_those_that_were_sent(store: FilesystemModelStore, start: int) -> None:
    came: list[int] = []
    rest = _BLOB[start:]
    async with store.write_blob(_LAYER) as writer:
        await writer.write(_BLOB[:start])
        async with _answer(_sender(rest), length=len(rest)) as answer, writer.part(start) as part:
            body = _taken(answer, len(rest))
            await part.receive(body, len(rest), came.append)
            body.close()
            assert part.position == len(_BLOB)
        await writer.commit()
    assert await _read(store) == _BLOB
    assert sum(came) == len(rest)


async def test_parts_out_of_order_are_hashed_all_the_same(store: FilesystemModelStore) -> None:
    half = len(_BLOB) // 2 // 4096 * 4096 + 100
    async with store.write_blob(_LAYER) as writer:
        for start, end in ((half, len(_BLOB)), (0, half)):
            async with _answer(_sender(_BLOB[start:end]), length=end - start) as answer, writer.part(start) as part:
                body = _taken(answer, end - start)
                await part.receive(body, end - start, lambda _count: None)
                body.close()
        await writer.commit()
    assert await _read(store) == _BLOB


async def test_a_broken_connection_leaves_every_byte_that_came(store: FilesystemModelStore) -> None:
    sent = 4 * _MIB + 777
    async with store.write_blob(_LAYER) as writer, _answer(_sender(_BLOB[:sent])) as answer, writer.part(0) as part:
        body = _taken(answer)
        with pytest.raises(RegistryUnreachableError, match="broke the connection"):
            await part.receive(body, len(_BLOB), lambda _count: None)
        body.close()
        assert part.position == sent
    async with store.write_blob(_LAYER) as writer:
        assert writer.missing == (Span(sent, len(_BLOB)),)
        await writer.write(_BLOB[sent:])
        await writer.commit()
    assert await _read(store) == _BLOB


async def test_silence_is_told_after_the_time_that_is_borne(store: FilesystemModelStore) -> None:
    quiet = asyncio.Event()

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(_BLOB[:100])
        await quiet.wait()

    async with store.write_blob(_LAYER) as writer, _answer(serve) as answer, writer.part(0) as part:
        body = _taken(answer, stall=0.05)
        with pytest.raises(RegistryUnreachableError, match="stopped answering"):
            await part.receive(body, len(_BLOB), lambda _count: None)
        body.close()
        assert part.position == 100
        quiet.set()


async def test_a_cancelled_receiver_ends_though_nothing_comes(store: FilesystemModelStore) -> None:
    quiet, begun = asyncio.Event(), asyncio.Event()

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(_BLOB[: 2 * _MIB])
        await quiet.wait()

    async with store.write_blob(_LAYER) as writer, _answer(serve) as answer, writer.part(0) as part:
        body = _taken(answer)
        work = asyncio.create_task(part.receive(body, len(_BLOB), lambda _count: begun.set()))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        body.close()
        quiet.set()
    async with store.write_blob(_LAYER) as writer:
        assert 0 < writer.offset <= 2 * _MIB


async def test_wrong_bytes_are_found_out(store: FilesystemModelStore) -> None:
    async with store.write_blob(_LAYER) as writer, _answer(_sender(bytes(len(_BLOB)))) as answer:
        async with writer.part(0) as part:
            body = _taken(answer)
            await part.receive(body, len(_BLOB), lambda _count: None)
            body.close()
        with pytest.raises(DmrError):
            await writer.commit()
    assert not await store.has_blob(_LAYER.digest)


async def test_the_bytes_can_be_had_in_the_event_loop_too() -> None:
    async with _answer(_sender(_BLOB)) as answer:
        body = _taken(answer)
        assert b"".join([chunk async for chunk in body.chunks()]) == _BLOB
        body.close()


@pytest.mark.parametrize("count", [len(_BLOB) - 1, 1000], ids=["of another length", "short"])
async def test_other_bodies_are_left_to_the_client(count: int) -> None:
    length = 1000 if count == 1000 else len(_BLOB)
    async with _answer(_sender(_BLOB[:length]), length=length) as answer:
        assert take_over(answer, count, 30) is None


async def test_what_the_disk_refused_is_not_taken_for_hashed(
    store: FilesystemModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.write_blob(_LAYER) as writer:
        async with _answer(_sender(_BLOB)) as answer, writer.part(0) as part:
            body = _taken(answer)
            with monkeypatch.context() as patched:
                patched.setattr(Receiver, "_put", _refusing_after(2 * _MIB))
                with pytest.raises(StorageFullError):
                    await part.receive(body, len(_BLOB), lambda _count: None)
            body.close()
            assert part.position == 2 * _MIB
        await writer.write(_BLOB[2 * _MIB :])
        await writer.commit()
    assert await _read(store) == _BLOB


def _refusing_after(room: int) -> Callable[[Receiver, memoryview, int], int]:
    put = Receiver._put

    def refusing(self: Receiver, view: memoryview, position: int) -> int:
        if position >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(self, view, position)

    return refusing
