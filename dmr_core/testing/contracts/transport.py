"""What every transport promises."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

import pytest

from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest, UpstreamResponse
from dmr_core.testing.fakes.transport import Answer, Handler

__all__ = ["TransportContract", "read_all"]

_DEADLINE = 20.0
_GET = UpstreamRequest("GET", "/health")


async def read_all(response: UpstreamResponse) -> bytes:
    """The whole body; closes the response."""
    parts = []
    try:
        while part := await response.read():
            parts.append(part)
    finally:
        await response.aclose()
    return b"".join(parts)


class TransportContract(ABC):
    """Subclass it, and say how to make a transport and an engine it can reach."""

    @pytest.fixture
    @abstractmethod
    def transport(self) -> Transport:
        """The transport under test."""

    @abstractmethod
    def engine(self, transport: Transport, handler: Handler) -> AbstractAsyncContextManager[Endpoint]:
        """An engine that answers as ``handler`` does, while the context lasts; nobody listens there after."""

    async def test_a_request_arrives_as_it_was_sent(self, transport: Transport) -> None:
        seen = []

        async def handler(request: UpstreamRequest) -> Answer:
            seen.append(request)
            return Answer(200, [(b"X-Answer", b"a, b")], b"hello")

        async with self.engine(transport, handler) as endpoint:
            sent = UpstreamRequest("POST", "/v1/x?a=%2F&b=c", [(b"x-ask", b"1"), (b"x-ask", b"2")], b"\x00\xffbody")
            response = await transport.send(endpoint, sent)
            assert response.status == 200
            assert (b"x-answer", b"a, b") in list(response.headers)
            assert await read_all(response) == b"hello"
        assert len(seen) == 1
        assert (seen[0].method, seen[0].path, seen[0].body) == ("POST", "/v1/x?a=%2F&b=c", b"\x00\xffbody")
        assert [field for field in seen[0].headers if field[0] == b"x-ask"] == [(b"x-ask", b"1"), (b"x-ask", b"2")]

    @pytest.mark.parametrize("status", [204, 302, 404, 500, 503])
    async def test_any_status_is_an_answer(self, transport: Transport, status: int) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(status, [(b"location", b"/elsewhere")], b"" if status == 204 else b"why")

        async with self.engine(transport, handler) as endpoint:
            response = await transport.send(endpoint, _GET)
            assert response.status == status
            assert await read_all(response) == (b"" if status == 204 else b"why")

    async def test_pieces_arrive_as_they_are_sent(self, transport: Transport) -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def pieces() -> AsyncGenerator[bytes, None]:
            for index, gate in enumerate(gates):
                await gate.wait()
                yield b"data: %d\n\n" % index

        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=pieces())

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            response = await transport.send(endpoint, _GET)
            for index, gate in enumerate(gates):
                gate.set()
                assert await response.read() == b"data: %d\n\n" % index
            assert await response.read() == b""
            assert await response.read() == b""
            await response.aclose()

    async def test_long_bodies_pass_both_ways(self, transport: Transport) -> None:
        body = bytes(range(256)) * 20_000

        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=request.body[::-1])

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            response = await transport.send(endpoint, UpstreamRequest("POST", "/", (), body))
            assert await read_all(response) == body[::-1]

    async def test_nobody_listening_is_an_upstream_error(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer()

        async with self.engine(transport, handler) as endpoint:
            pass
        with pytest.raises(UpstreamError, match="cannot reach"):
            await transport.send(endpoint, _GET)

    async def test_breaking_off_in_the_middle_is_an_upstream_error(self, transport: Transport) -> None:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"some"
            raise UpstreamError("broke off")

        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=pieces())

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            response = await transport.send(endpoint, _GET)
            with pytest.raises(UpstreamError):
                await read_all(response)

    async def test_no_answer_is_an_upstream_error(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            raise UpstreamError("no")

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            with pytest.raises(UpstreamError):
                await transport.send(endpoint, UpstreamRequest("POST", "/", (), b"x"))

    async def test_closing_early_tells_the_engine(self, transport: Transport) -> None:
        told = asyncio.Event()

        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"more"
                    await asyncio.sleep(0.005)
            finally:
                told.set()

        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=pieces())

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            response = await transport.send(endpoint, _GET)
            assert await response.read()
            await response.aclose()
            await response.aclose()
            await told.wait()

    async def test_cancelling_a_request_tells_the_engine(self, transport: Transport) -> None:
        asked = asyncio.Event()
        told = asyncio.Event()

        async def handler(request: UpstreamRequest) -> Answer:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.set()
            return Answer()

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            sending = asyncio.create_task(transport.send(endpoint, _GET))
            await asked.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await told.wait()

    async def test_a_cancelled_read_leaves_a_response_that_can_be_closed(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=_silence())

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            response = await transport.send(endpoint, _GET)
            reading = asyncio.create_task(response.read())
            await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await response.aclose()

    async def test_requests_do_not_wait_for_each_other(self, transport: Transport) -> None:
        everybody = asyncio.Barrier(8)

        async def handler(request: UpstreamRequest) -> Answer:
            await everybody.wait()
            return Answer(body=request.body)

        async def ask(endpoint: Endpoint, index: int) -> bytes:
            return await read_all(await transport.send(endpoint, UpstreamRequest("POST", "/", (), b"%d" % index)))

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            answers = await asyncio.gather(*(ask(endpoint, index) for index in range(8)))
        assert answers == [b"%d" % index for index in range(8)]

    async def test_one_after_the_other_works_and_so_does_a_forgotten_engine(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer(body=request.path.encode())

        async with self.engine(transport, handler) as endpoint, asyncio.timeout(_DEADLINE):
            for index in range(5):
                response = await transport.send(endpoint, UpstreamRequest("GET", f"/{index}"))
                assert await read_all(response) == b"/%d" % index
            await transport.forget(endpoint)
            await transport.forget(endpoint)
            assert await read_all(await transport.send(endpoint, _GET)) == b"/health"

    async def test_a_closed_transport_sends_nothing(self, transport: Transport) -> None:
        async def handler(request: UpstreamRequest) -> Answer:
            return Answer()

        async with self.engine(transport, handler) as endpoint:
            await transport.aclose()
            await transport.aclose()
            with pytest.raises(UpstreamError):
                await transport.send(endpoint, _GET)


async def _silence() -> AsyncGenerator[bytes, None]:
    await asyncio.Event().wait()
    yield b""
