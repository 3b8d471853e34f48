"""The client for the Docker Engine and for containers: whatever answers, it ends, and in bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dmr_backends_nim.docker_engine import DockerEngine, DockerError, DockerUnreachableError
from dmr_backends_nim.docker_host import DockerHost
from dmr_backends_nim.http_client import HttpClient, NoAnswerError


@asynccontextmanager
async def answering(path: Path, *pieces: bytes, hold: bool = False) -> AsyncIterator[list[bytes]]:
    """A server that sends these bytes to whoever asks, whatever they ask; and the heads it got."""
    asked: list[bytes] = []
    going: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going.add(task)
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if hold:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            going.discard(task)

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield asked
    finally:
        server.close()
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


async def fetched(path: Path, *, patience: float | None = 5.0, timeout: float = 5.0) -> tuple[int, bytes]:
    async with HttpClient(path).send("GET", "/x", timeout=timeout, patience=patience) as answer:
        return answer.status, await answer.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 5\r\n\r\nhe", b"llo"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhello",),
    ],
)
async def test_every_framing_is_read(path: Path, pieces: tuple[bytes, ...]) -> None:
    async with answering(path, *pieces) as asked:
        assert await fetched(path) == (200, b"hello")
    assert asked[0].startswith(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5" * 200_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
async def test_what_is_no_answer_is_an_error(path: Path, sent: bytes) -> None:
    async with answering(path, sent):
        with pytest.raises(NoAnswerError):
            await fetched(path)


async def test_nobody_there_is_an_error_that_says_where(path: Path) -> None:
    with pytest.raises(NoAnswerError, match=str(path)):
        await fetched(path)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"])
async def test_silence_ends_within_bounds(path: Path, sent: bytes) -> None:
    async with answering(path, sent, hold=True):
        with pytest.raises(NoAnswerError, match="s"):
            await fetched(path, patience=0.05, timeout=0.05)


async def test_a_body_without_end_is_cut(path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    four, forty = ((b"10000\r\n" + b"x" * 0x10000 + b"\r\n",) * count for count in (4, 40))
    async with answering(path, head, *four), HttpClient(path).send("GET", "/") as answer:
        with pytest.raises(NoAnswerError, match="more than 100000 bytes"):
            await answer.read(100_000)
    async with answering(path, head, *forty), HttpClient(path).send("GET", "/") as answer:
        with pytest.raises(NoAnswerError, match="a line longer"):
            [_ async for _ in answer.lines()]


async def test_leaving_closes_the_connection(path: Path) -> None:
    held = answering(path, b"HTTP/1.1 200 OK\r\n\r\nfirst\n", hold=True)
    async with held, HttpClient(path).send("GET", "/", patience=None) as answer:
        lines = answer.lines()
        assert await anext(lines) == b"first"
        await lines.aclose()


def json_answer(status: int, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize("document", [[], "text", None, {"ApiVersion": 7}, {"ApiVersion": "../../x"}])
async def test_an_engine_that_talks_nonsense_is_an_error_or_nothing(path: Path, document: object) -> None:
    docker = DockerEngine(DockerHost(path))
    async with answering(path, json_answer(200, document)) as asked:
        for call in (docker.ping, docker.images, docker.runtimes):
            with suppress(DockerError, DockerUnreachableError):
                assert await call() in ("", [], frozenset())
    assert not any(b".." in head for head in asked)


async def test_what_an_engine_says_of_a_failure_is_passed_on_in_bounds(path: Path) -> None:
    docker = DockerEngine(DockerHost(path))
    async with answering(path, json_answer(500, {"message": "x" * 10_000})):
        with pytest.raises(DockerError) as raised:
            await docker.images()
    assert (raised.value.status, len(raised.value.reason)) == (500, 2000)


async def test_an_engine_that_cannot_be_used_says_why_without_being_asked() -> None:
    with pytest.raises(DockerUnreachableError, match="not supported"):
        await DockerEngine(DockerHost(None, "DOCKER_HOST", "DOCKER_HOST says ssh://…, which is not supported")).ping()
