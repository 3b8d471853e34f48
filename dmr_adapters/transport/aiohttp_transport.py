"""The transport that leaves HTTP to aiohttp: the reference for the other one, and its fallback."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.transport.request_head import check_target, describe, outgoing_headers
from dmr_core.errors import InvalidRequestError, UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest, UpstreamResponse

__all__ = ["AiohttpTransport"]

_KEEP_ALIVE: Final = 4.0  # seconds; llama.cpp and uvicorn close what was idle for 5
_LONGEST_FIELD: Final = 64 * 1024
_LONG_BODY: Final = 512 * 1024
_FULL_QUEUE: Final = 5.0
_PAUSE: Final = 0.02
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=5.0, sock_read=None)
# What aiohttp adds by itself and an engine should hear only from the client.
_NOT_OURS_TO_SAY: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _AiohttpResponse(UpstreamResponse):
    __slots__ = ("_name", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, name: str) -> None:
        self._response = response
        self._name = name
        self.status = response.status
        self.headers = tuple((field.lower(), value) for field, value in response.raw_headers)

    async def read(self) -> bytes:
        """See :class:`UpstreamResponse`."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamError(f"the engine at {self._name} broke off in the middle of its answer") from exc

    async def aclose(self) -> None:
        """See :class:`UpstreamResponse`."""
        self._response.close()  # aiohttp took the connection back by itself if all had arrived


@attrs.define
class _Use:
    """Filled in by aiohttp's tracing: whether a request went out on a connection kept from before."""

    is_kept: bool = False


class AiohttpTransport(Transport):
    """Speaks HTTP/1.1 through one aiohttp session per engine. Belongs to the loop it is first used on."""

    def __init__(self) -> None:
        self._sessions: dict[Endpoint, aiohttp.ClientSession] = {}
        self._closed = False

    async def send(self, endpoint: Endpoint, request: UpstreamRequest) -> UpstreamResponse:
        """See :class:`Transport`.

        A kept connection that the engine closes before the first byte of an answer is replaced by a new
        one, once: the engine closed it for having been idle, and did not see the request.

        Raises:
            InvalidRequestError: the request cannot be sent as one well-formed message.
            UpstreamError: nobody listens there, or the engine broke off before answering.
        """
        check_target(request)
        headers = _decoded(request)
        if self._closed:
            raise UpstreamError("the transport is closed")
        session = self._sessions.get(endpoint)
        if session is None:
            session = self._sessions[endpoint] = _session(endpoint, keep=True)
        use = _Use()
        try:
            return await _ask(session, endpoint, request, headers, use)
        except UpstreamError as exc:
            is_stale = isinstance(exc.__cause__, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
            if not (is_stale and use.is_kept):
                raise
        # Another kept connection could be as stale as the first, so this one is made for the purpose.
        session = _session(endpoint, keep=False)
        try:
            response = await _ask(session, endpoint, request, headers, use)
        except BaseException:
            await session.close()
            raise
        return _LastResponse(response, session.close)

    async def forget(self, endpoint: Endpoint) -> None:
        """See :class:`Transport`. Answers still being read from it break off."""
        session = self._sessions.pop(endpoint, None)
        if session is not None:
            await session.close()
            # aiohttp closes a transport without waiting; the loop needs a turn to let go of the socket.
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """See :class:`Transport`. Idempotent; a closed transport sends nothing more."""
        self._closed = True
        for endpoint in list(self._sessions):
            await self.forget(endpoint)


class _LastResponse(UpstreamResponse):
    """The answer on a connection that is not kept; takes its session with it."""

    __slots__ = ("_close", "_response", "headers", "status")

    def __init__(self, response: UpstreamResponse, close: Callable[[], Awaitable[None]]) -> None:
        self._response = response
        self._close = close
        self.status = response.status
        self.headers = response.headers

    async def read(self) -> bytes:
        """See :class:`UpstreamResponse`."""
        return await self._response.read()

    async def aclose(self) -> None:
        """See :class:`UpstreamResponse`."""
        await self._response.aclose()
        await self._close()


async def _ask(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    request: UpstreamRequest,
    headers: list[tuple[str, str]],
    use: _Use,
) -> UpstreamResponse:
    name, give_up = describe(endpoint), time.monotonic() + _FULL_QUEUE
    origin = "http://localhost" if endpoint.socket is not None else f"http://{endpoint.host}:{endpoint.port}"
    try:
        while True:
            try:
                response = await session.request(
                    request.method,
                    URL(origin + request.path, encoded=True),
                    data=_payload(request.body),
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=use,
                )
                break
            except aiohttp.ClientOSError as exc:
                # A unix socket whose queue is full refuses at once (connect(2)), where TCP would wait; asyncio takes
                # that for a connection on its way, and finds out that there is none when it writes.
                if exc.errno not in (errno.EAGAIN, errno.ENOTCONN) or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_PAUSE)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        raise UpstreamError(f"cannot reach the engine at {name}: {_reason(exc)}") from exc
    except aiohttp.ClientResponseError as exc:
        raise UpstreamError(f"the engine at {name} sent a malformed response: {exc.message}") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamError(f"the engine at {name} closed the connection without an answer") from exc
    return _AiohttpResponse(response, name)


def _payload(body: bytes) -> bytes | BytesIO | None:
    # aiohttp writes long bytes in one go and warns that it does; a file it writes in pieces.
    return BytesIO(body) if len(body) > _LONG_BODY else body or None


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or "it does not accept connections"


def _decoded(request: UpstreamRequest) -> list[tuple[str, str]]:
    headers = []
    has_host = False
    for name, value in outgoing_headers(request.headers):
        has_host = has_host or name.lower() == b"host"
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as exc:  # aiohttp writes UTF-8 and nothing else
            raise InvalidRequestError(f"header field {name.decode('ascii')!r} is not UTF-8") from exc
        headers.append((name.decode("ascii"), text))
    if not has_host:
        headers.append(("Host", "localhost"))
    return headers


def _lifetime(*, keep: bool) -> dict[str, Any]:
    return {"keepalive_timeout": _KEEP_ALIVE} if keep else {"force_close": True}


def _session(endpoint: Endpoint, *, keep: bool) -> aiohttp.ClientSession:
    async def reused(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.is_kept = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    if endpoint.socket is not None:
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(
            path=str(endpoint.socket), limit=0, **_lifetime(keep=keep)
        )
    else:
        connector = aiohttp.TCPConnector(limit=0, **_lifetime(keep=keep))
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_TIMEOUT,
        trace_configs=[tracing],
        skip_auto_headers=_NOT_OURS_TO_SAY,
        max_line_size=_LONGEST_FIELD,
        max_field_size=_LONGEST_FIELD,
    )
