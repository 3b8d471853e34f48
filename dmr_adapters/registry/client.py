"""One HTTP client for everything said to registries, token servers and storage behind them.

It follows no redirect, keeps no cookie and adds no credential of its own: what a request carries is
decided where the party it goes to is known. Every wait is bounded, and aiohttp's exceptions end here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.request import getproxies, proxy_bypass

import aiohttp
import aiohttp.abc
import attrs
from yarl import URL

from dmr_adapters.registry.endpoint import is_inward, is_loopback
from dmr_adapters.registry.retry import BrokenConnectionError, RefusedConnectionError
from dmr_core import __version__
from dmr_core.errors import DmrError, RegistryError, RegistryUnreachableError

__all__ = ["HttpClient", "Timeouts", "proxy_for", "read_bounded", "translated"]

_READ_BUFFER: Final = 1024 * 1024  # 64 KiB, aiohttp's own, costs a third of the throughput
_CONNECTIONS: Final = 0  # no limit here: whoever starts transfers limits them


@attrs.frozen(kw_only=True)
class Timeouts:
    """Limits in seconds. No limit holds for a whole blob, only for the silence within one.

    ``head`` cannot be longer than ``stall``: a silent server has stalled. ``document`` bounds a small
    body from first to last byte, so that nobody can drip one for ever.
    """

    connect: float = 10.0
    head: float = 30.0
    stall: float = 30.0
    document: float = 300.0


class HttpClient:
    """``aiohttp`` sessions, made on first use inside the running loop.

    Proxies are those of the environment, read by us instead of ``trust_env``: that would also
    send what ``~/.netrc`` holds, and proxy requests to this very machine.
    """

    def __init__(self, timeouts: Timeouts, tls: ssl.SSLContext | None = None) -> None:
        self.timeouts = timeouts
        self._tls = tls
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None = None,
        answer_within: float | None = None,
        outward: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send one request and return once the head of its answer is here. The caller closes the answer.

        ``outward``: connect to no address inside somebody's network, whatever the name resolves to by now.
        ``answer_within`` replaces the limit for the head where a body is streamed: then it counts
        from the end of the body on, and the body's own pace is the caller's to watch.

        Raises:
            RegistryUnreachableError: no connection, no answer in time, or it broke.
        """
        limits = self.timeouts
        streamed = answer_within is not None
        proxy = proxy_for(url)
        # A proxy is asked for by its own name, and what it may reach is its operator's decision.
        session = self._opened(outward=outward and proxy is None)
        with translated(url):
            async with asyncio.timeout(None if streamed else limits.connect + limits.head):
                return await session.request(
                    method,
                    url,
                    headers=dict(headers),
                    data=body,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=limits.connect, sock_read=answer_within or limits.stall
                    ),
                )

    async def aclose(self) -> None:
        """Close every connection. The client can be used again afterwards."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _opened(self, *, outward: bool) -> aiohttp.ClientSession:
        if outward not in self._sessions:
            resolver = _OutwardResolver() if outward else None
            self._sessions[outward] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls or True, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"dmr/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
            )
        return self._sessions[outward]


class _OutwardResolver(aiohttp.ThreadedResolver):
    """Gives the addresses of a host that lie outside, so that a name cannot mean one thing when it is judged and
    another when it is connected to.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await super().resolve(host, port, family)
        outside = [entry for entry in found if not is_inward(entry["host"])]
        if not outside:
            raise OSError(f"{host} has no address outside")
        return outside


def proxy_for(url: URL) -> URL | None:
    """The proxy the environment names for ``url``; never one for this machine.

    Raises:
        RegistryUnreachableError: it names something else than an HTTP proxy.
    """
    host = url.host or ""
    if is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return None
    named = getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy:
        return None
    try:
        parsed = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:  # never shown: it may hold a password
        raise RegistryUnreachableError(f"cannot reach {_shown(url)}: the {url.scheme} proxy set is no HTTP proxy")
    return parsed


async def read_bounded(answer: aiohttp.ClientResponse, limit: int, within: float) -> bytes | None:
    """The body, or ``None`` where it is longer than ``limit`` bytes.

    Raises:
        RegistryUnreachableError: it broke off, or took longer than ``within`` seconds.
    """
    if (answer.content_length or 0) > limit:
        return None
    body = bytearray()
    with translated(answer.url):
        async with asyncio.timeout(within):
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > limit:
                    return None
    return bytes(body)


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn what aiohttp raises into conditions that name the host and say the reason in words."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
        raise _condition(exc, url) from exc


def _condition(exc: Exception, url: URL) -> DmrError:
    host = _shown(url)
    match exc:
        case aiohttp.ConnectionTimeoutError():
            return RegistryUnreachableError(f"cannot reach {host}: no connection within the time limit")
        case TimeoutError():
            return RegistryUnreachableError(f"{host} stopped answering: nothing came within the time limit")
        case aiohttp.ClientConnectorDNSError():
            return RefusedConnectionError(f"cannot reach {host}: its name does not resolve")
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch() | ssl.SSLError():
            return RegistryUnreachableError(f"cannot speak TLS with {host}: {_tls_reason(exc)}")
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return RegistryUnreachableError(f"cannot reach {host}: the proxy of the environment did not connect")
        case aiohttp.ClientConnectorError() if exc.os_error.__class__ is ConnectionRefusedError or exc.errno is None:
            return RefusedConnectionError(f"cannot reach {host}: connection refused")
        case aiohttp.ClientConnectorError():
            return RefusedConnectionError(f"cannot reach {host}: {exc.strerror or 'connection failed'}")
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
            return BrokenConnectionError(f"{host} broke the connection before the answer was complete")
        case _:
            return RegistryError(f"{host} gave an answer that is no HTTP")


def _tls_reason(exc: Exception) -> str:
    cause = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None) or exc
    if refused := getattr(cause, "verify_message", ""):
        return f"{refused}. If its authority is your own, name it in DMR_CA_CERT"
    return getattr(cause, "reason", "") or "the handshake failed"


def _shown(url: URL) -> str:
    return repr(url.authority.rpartition("@")[2])
