"""Every transport keeps the promises of the port; the two real ones also the finer points of HTTP."""

import asyncio
import socket
import tempfile
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from dmr_adapters.transport.aiohttp_transport import AiohttpTransport
from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_core.errors import InvalidRequestError, UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest
from dmr_core.testing.contracts.transport import TransportContract, read_all
from dmr_core.testing.fakes.transport import Answer, Handler, InMemoryTransport
from tests.stand_ins.event_loops import BOTH_LOOPS

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE = 20.0


class TestInMemoryTransport(TransportContract):
    @pytest.fixture
    async def transport(self) -> AsyncGenerator[InMemoryTransport, None]:
        transport = InMemoryTransport()
        yield transport
        await transport.aclose()

    @asynccontextmanager
    async def engine(self, transport: Transport, handler: Handler) -> AsyncIterator[Endpoint]:
        assert isinstance(transport, InMemoryTransport)
        endpoint = Endpoint(Path("/fake/engine.sock"))
        transport.serve(endpoint, handler)
        yield endpoint
        transport.silence(endpoint)


@BOTH_LOOPS
class _Wire(TransportContract):
    """What only shows on a socket."""

    @abstractmethod
    def make(self) -> Transport: ...

    @pytest.fixture
    async def transport(self) -> AsyncGenerator[Transport, None]:
        transport = self.make()
        yield transport
        await transport.aclose()

    def engine(self, transport: Transport, handler: Handler) -> AbstractAsyncContextManager[Endpoint]:
        return listening(_serve(handler))

    async def test_the_engine_hears_nothing_that_was_not_said(self, transport: Transport) -> None:
        heads = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            request = UpstreamRequest("POST", "/v1/x", [(b"content-type", b"application/json")], b"{}")
            assert await read_all(await transport.send(endpoint, request)) == b"ok"
        first, *fields, _, _ = heads[0].split(b"\r\n")
        assert first == b"POST /v1/x HTTP/1.1"
        assert sorted(field.lower() for field in fields) == [
            b"content-length: 2",
            b"content-type: application/json",
            b"host: localhost",
        ]

    async def test_an_engine_whose_queue_is_full_is_asked_again(self, transport: Transport) -> None:
        """A unix socket refuses then, where TCP would wait; two hundred clients at once are enough for that."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "engine.sock")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.setblocking(False)
            listener.bind(path)
            listener.listen(0)
            fillers = 0
            with suppress(BlockingIOError):
                while True:
                    filler = stack.enter_context(socket.socket(socket.AF_UNIX))
                    filler.setblocking(False)
                    filler.connect(path)
                    fillers += 1
            request = UpstreamRequest("GET", "/", [], b"")
            asking = asyncio.ensure_future(transport.send(Endpoint(Path(path)), request))
            await asyncio.wait({asking}, timeout=0.05)
            assert not asking.done()
            async with asyncio.timeout(DEADLINE):
                for _ in range(fillers + 1):
                    connection, _ = await loop.sock_accept(listener)
                    stack.enter_context(connection)
                connection.setblocking(False)
                assert await loop.sock_recv(connection, 65536)
                await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert await read_all(await asking) == b"ok"
            await transport.forget(Endpoint(Path(path)))

    async def test_framing_is_ours_to_say(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=request.body)

        lies = [(b"Content-Length", b"99"), (b"transfer-encoding", b"chunked"), (b"connection", b"close")]
        async with self.engine(transport, handler) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("POST", "/", lies, b"truth"))
            assert await read_all(response) == b"truth"

    @pytest.mark.parametrize(
        "request_",
        [
            UpstreamRequest("GET", "/a b"),
            UpstreamRequest("GET", "/a\r\nx: y"),
            UpstreamRequest("GET", "a"),
            UpstreamRequest("GET", "/ä"),
            UpstreamRequest("G ET", "/"),
            UpstreamRequest("GET", "/", [(b"x", b"1\r\ny: 2")]),
            UpstreamRequest("GET", "/", [(b"x: y\r\nz", b"1")]),
            UpstreamRequest("GET", "/", [(b"x", b"\x00")]),
        ],
    )
    async def test_what_would_be_two_requests_is_refused(self, transport: Transport, request_: UpstreamRequest) -> None:
        with pytest.raises(InvalidRequestError):
            await transport.send(Endpoint(Path("/nowhere.sock")), request_)

    async def test_a_connection_is_used_again(self, transport: Transport) -> None:
        connections = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            for _ in range(5):
                assert await read_all(await transport.send(endpoint, UpstreamRequest("GET", "/"))) == b"ok"
        assert len(connections) == 1

    async def test_a_kept_connection_that_was_closed_is_replaced_once(self, transport: Transport) -> None:
        connections = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            # Closed only when the next request is on its way, as in the race that matters.
            await reader.read(1)

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            for _ in range(3):
                request = UpstreamRequest("POST", "/", (), b"x")
                assert await read_all(await transport.send(endpoint, request)) == b"ok"
        assert len(connections) >= 3

    async def test_a_new_connection_that_is_closed_is_an_error_at_once(self, transport: Transport) -> None:
        connections = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await reader.readuntil(b"\r\n\r\n")

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            with pytest.raises(UpstreamError):
                await transport.send(endpoint, UpstreamRequest("POST", "/", (), b"x"))
        assert len(connections) == 1

    @pytest.mark.parametrize(
        ("raw", "status", "body"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
            (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
            (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
            (b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", 404, b""),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
                200,
                b"abcd0123456789",
            ),
        ],
    )
    async def test_every_way_to_say_how_long_a_body_is(
        self, transport: Transport, raw: bytes, status: int, body: bytes
    ) -> None:
        async with listening(_says(raw)) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("GET", "/"))
            assert (response.status, await read_all(response)) == (status, body)

    async def test_a_head_has_no_body(self, transport: Transport) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
        async with listening(_says(raw)) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("HEAD", "/"))
            assert (response.status, await read_all(response)) == (200, b"")

    @pytest.mark.parametrize(
        "raw",
        [
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-le",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        ],
    )
    async def test_what_is_no_whole_answer_is_an_upstream_error(self, transport: Transport, raw: bytes) -> None:
        async with listening(_says(raw)) as endpoint, asyncio.timeout(DEADLINE):
            with pytest.raises(UpstreamError):
                await read_all(await transport.send(endpoint, UpstreamRequest("GET", "/")))

    async def test_compressed_bodies_stay_compressed(self, transport: Transport) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x00"
        async with listening(_says(raw)) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("GET", "/"))
            assert (b"content-encoding", b"gzip") in list(response.headers)
            assert await read_all(response) == b"\x1f\x8b\x00"

    async def test_a_reader_that_does_not_read_stops_the_engine(self, transport: Transport) -> None:
        sent = 0
        stuck = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(65536))
                sent += 65536
                try:
                    async with asyncio.timeout(0.3):
                        await writer.drain()
                except TimeoutError:
                    stuck.set()
                    return

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("GET", "/"))
            await stuck.wait()
            assert sent < 4 * 2**20
            assert len(await response.read()) > 0
            await response.aclose()

    async def test_engines_on_a_port_are_reached_too(self, transport: Transport) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntcp"
        async with listening(_says(raw), port=True) as endpoint, asyncio.timeout(DEADLINE):
            assert await read_all(await transport.send(endpoint, UpstreamRequest("GET", "/"))) == b"tcp"

    async def test_errors_do_not_tell_where_sockets_are(self, transport: Transport) -> None:
        with pytest.raises(UpstreamError, match=r"engine-1\.sock") as caught:
            await transport.send(Endpoint(Path("/home/somebody/engine-1.sock")), UpstreamRequest("GET", "/"))
        assert "/home" not in caught.value.message


class TestAiohttpTransport(_Wire):
    def make(self) -> Transport:
        return AiohttpTransport()


class TestStreamTransport(_Wire):
    def make(self) -> Transport:
        return StreamTransport()

    async def test_idle_connections_are_closed_in_time(
        self, transport: Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dmr_adapters.transport.stream_transport._IDLE_LIMIT", 0.05)
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert await reader.read() == b""
            closed.set()

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            assert await read_all(await transport.send(endpoint, UpstreamRequest("GET", "/"))) == b"ok"
            await closed.wait()

    async def test_an_answer_nobody_asked_for_is_given_to_nobody(self, transport: Transport) -> None:
        connections = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer + b"%d" % len(connections) + answer + b"X")

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            for number in range(1, 4):
                answer = await read_all(await transport.send(endpoint, UpstreamRequest("GET", "/")))
                assert answer == b"%d" % number

    async def test_a_refusal_of_a_long_body_arrives_and_ends_the_connection(self, transport: Transport) -> None:
        connections = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Long\r\nContent-Length: 2\r\n\r\nno")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await writer.wait_closed()

        async with listening(script) as endpoint, asyncio.timeout(DEADLINE):
            for _ in range(2):
                response = await transport.send(endpoint, UpstreamRequest("POST", "/", (), bytes(2**24)))
                assert (response.status, await read_all(response)) == (413, b"no")
        assert len(connections) == 2

    async def test_what_arrived_before_a_failure_is_read_before_it(self, transport: Transport) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome"
        async with listening(_says(raw)) as endpoint, asyncio.timeout(DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("GET", "/"))
            assert await response.read() == b"some"
            with pytest.raises(UpstreamError, match="in the middle"):
                await response.read()
            await response.aclose()


# --- an engine on a unix socket ---------------------------------------------------------------------


@asynccontextmanager
async def listening(script: Script, *, port: bool = False) -> AsyncIterator[Endpoint]:
    """A server that runs ``script`` on each connection and then closes it."""
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(converse(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await script(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    with tempfile.TemporaryDirectory(prefix="dmr-") as directory:
        path = Path(directory) / "engine.sock"
        if port:
            server = await asyncio.start_server(connected, "127.0.0.1", 0)
        else:
            server = await asyncio.start_unix_server(connected, path)
        try:
            async with server:
                yield Endpoint(port=server.sockets[0].getsockname()[1]) if port else Endpoint(path)
        finally:
            path.unlink(missing_ok=True)
            for task in list(running):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def _says(raw: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)

    return script


def _serve(handler: Handler) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await _read_request(reader)
            answering = asyncio.create_task(_answer(handler, request, writer))
            watching = asyncio.create_task(reader.read(1))
            try:
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() or not answering.result():
                    return
            finally:
                answering.cancel()
                watching.cancel()
                await asyncio.gather(answering, watching, return_exceptions=True)

    return script


async def _read_request(reader: asyncio.StreamReader) -> UpstreamRequest:
    first, *lines, _, _ = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    method, path, _ = first.decode().split(" ")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    length = int(dict(headers).get(b"content-length", b"0"))
    return UpstreamRequest(method, path, headers, await reader.readexactly(length))


async def _answer(handler: Handler, request: UpstreamRequest, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection can be kept."""
    try:
        answer = await handler(request)
    except UpstreamError:
        return False
    fields = b"".join(b"%b: %b\r\n" % field for field in answer.headers)
    head = b"HTTP/1.1 %d Whatever\r\n%b" % (answer.status, fields)
    if isinstance(answer.body, bytes):
        length = b"" if answer.status == 204 else b"content-length: %d\r\n" % len(answer.body)
        writer.write(head + length + b"\r\n" + answer.body)
        await writer.drain()
        return True
    writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
    try:
        async for piece in answer.body:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
    except UpstreamError:
        return False
    finally:
        await answer.body.aclose()
    writer.write(b"0\r\n\r\n")
    return True
