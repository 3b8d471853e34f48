"""Where a registry may send us.

A registry names other addresses: its token server, the storage behind its blobs, the place for an
upload. A hostile one could name a service inside the network dmr runs in and have dmr knock there
(docker/model-runner CVE-2026-33990). So a registry out in the world cannot name what lies inside.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from yarl import URL

from dmr_adapters.registry.client import proxy_for
from dmr_adapters.registry.endpoint import Endpoint, is_inward, is_loopback, origin
from dmr_core.errors import RegistryError

__all__ = ["Resolver", "check_realm", "check_target", "may_lie_inside", "resolve"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host; empty where it has none."""

_LOOKUP_LIMIT: Final = 10.0


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver."""
    try:
        async with asyncio.timeout(_LOOKUP_LIMIT):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return [str(entry[4][0]) for entry in found]


async def check_realm(endpoint: Endpoint, realm: str, resolver: Resolver) -> URL:
    """The URL of the token server a registry names, if credentials may go there.

    It is https unless the registry itself is spoken to in plain text, and it lies inside somebody's
    network only if it is the registry's own host or the registry runs on this machine.

    Raises:
        RegistryError: it is not acceptable; says which rule, for whoever runs the registry.
    """
    url = _parse(realm)
    if url is None:
        raise RegistryError(f"registry {endpoint.registry!r} names a token server that is no web address")
    if url.scheme != "https" and not endpoint.is_plain:
        raise RegistryError(f"registry {endpoint.registry!r} names a token server without TLS; refused")
    if origin(url)[1] != endpoint.host and not endpoint.is_loopback and await _lies_inside(url, resolver):
        raise RegistryError(
            f"registry {endpoint.registry!r} names a token server inside this network, {url.host!r}; refused"
        )
    return url


async def check_target(endpoint: Endpoint, source: URL, location: str, resolver: Resolver) -> URL:
    """The URL that ``location`` means as an answer from ``source``, if we may go there.

    Unlike a token server, storage may lie inside when the registry does: both are then of one house.

    Raises:
        RegistryError: it is no web address, leaves TLS, or points inside.
    """
    given = _parse(location, source)
    if given is None:
        raise RegistryError(f"{source.host!r} redirects to something that is no web address")
    if source.scheme == "https" and given.scheme != "https":
        raise RegistryError(f"{source.host!r} redirects from https to {given.scheme}; refused")
    foreign = origin(given)[1] not in {endpoint.host, origin(source)[1]}
    inside = foreign and not endpoint.is_loopback and await _lies_inside(given, resolver)
    if inside and not any(is_inward(address) for address in await _addresses(endpoint, resolver)):
        raise RegistryError(f"{source.host!r} redirects to an address inside this network; refused")
    return given


async def may_lie_inside(endpoint: Endpoint, url: URL, resolver: Resolver, *, house: bool) -> bool:
    """Whether a connection for ``endpoint``'s sake to ``url`` may end at an address inside somebody's network.

    Asked again where the connection is made, because a name may resolve to something else by then. ``house`` is the
    rule of :func:`check_target`: what a registry inside names may lie inside as well.
    """
    if origin(url)[1] == endpoint.host or endpoint.is_loopback:
        return True
    return house and any(is_inward(address) for address in await _addresses(endpoint, resolver))


async def _addresses(endpoint: Endpoint, resolver: Resolver) -> Sequence[str]:
    return [endpoint.host, *await resolver(endpoint.host, endpoint.url.port or 443)]


def _parse(text: str, base: URL | None = None) -> URL | None:
    try:
        url = URL(text, encoded=True)  # signed queries are valid only as written
        url = base.join(url) if base is not None else url
        url = url.with_fragment(None) if url.raw_fragment else url
        port = url.port
    except ValueError:
        return None
    usable = url.scheme in {"http", "https"} and url.host and port and text.isascii() and text.isprintable()
    usable = usable and not _is_disguised(url.host or "")
    # User information would silently become an Authorization header.
    return url if usable and " " not in text and url.raw_user is None and url.raw_password is None else None


def _is_disguised(host: str) -> bool:
    """Whether ``host`` is an IPv4 address in a form that only resolvers read: ``0x7f.1``, ``2130706433``."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        with suppress(OSError):
            socket.inet_aton(host)
            return True
    return False


async def _lies_inside(url: URL, resolver: Resolver) -> bool:
    host = url.host or ""
    if is_inward(host) or is_loopback(host):
        return True
    if proxy_for(url) is not None:
        return False  # the proxy resolves and dials; what it may reach is its operator's decision
    return any(is_inward(address) for address in await resolver(host, url.port or 443))
