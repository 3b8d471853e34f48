"""Which URL the registry of a reference means, and which addresses lie inside somebody's network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import attrs
from yarl import URL

from dmr_core.domain.naming import DEFAULT_REGISTRY
from dmr_core.errors import RegistryError

__all__ = ["DOCKER_HUB", "HUB_HOSTS", "Endpoint", "EndpointPolicy", "is_inward", "is_loopback", "origin"]

DOCKER_HUB: Final = DEFAULT_REGISTRY
_HUB_API: Final = "registry-1.docker.io"
HUB_HOSTS: Final = frozenset({DOCKER_HUB, "index.docker.io", _HUB_API})

# RFC 6598: behind carrier-grade NAT and inside clouds, and `is_private` does not count it.
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")

Origin = tuple[str, str, int | None]


def origin(url: URL) -> Origin:
    """Scheme, host and port: two URLs are one party only if all three agree (RFC 6454 §4)."""
    return url.scheme, (url.host or "").lower().rstrip("."), url.port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by definition (RFC 6761 §6.3, 127.0.0.0/8, ::1). Resolves nothing."""
    name = host.lower().rstrip(".")
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def is_inward(host: str) -> bool:
    """Whether ``host`` is an address only reachable from inside: loopback, private, link-local, reserved.

    A name that is no address answers ``False`` unless it means this machine; resolve it first.
    """
    address = _address(host)
    if address is None:
        return is_loopback(host)
    shared = isinstance(address, ipaddress.IPv4Address) and address in _SHARED
    return shared or not address.is_global or address.is_multicast


@attrs.frozen
class Endpoint:
    """Where the registry called ``registry`` is served. ``url`` is its origin, ``prefix`` what stands before ``/v2/``.

    ``namespace`` is told in every request where it is a mirror of somebody: whose repositories are meant.
    """

    registry: str
    url: URL
    prefix: str = ""
    namespace: str = ""

    @property
    def origin(self) -> Origin:
        """The one party that may see this registry's credentials."""
        return origin(self.url)

    @property
    def host(self) -> str:
        """Host name or address, without the port."""
        return self.origin[1]

    @property
    def is_plain(self) -> bool:
        """Whether it is spoken to without TLS."""
        return self.url.scheme == "http"

    @property
    def is_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(self.host)

    def path(self, repository: str, *parts: str) -> URL:
        """``/v2/<repository>/<parts>``; every piece comes out of a domain type, so none needs quoting."""
        url = self.url.with_path(f"{self.prefix}/v2/" + "/".join((repository, *parts)), encoded=bool(self.prefix))
        return url.with_query(ns=self.namespace) if self.namespace else url


def _lowered(hosts: Iterable[str]) -> frozenset[str]:
    return frozenset(host.lower() for host in hosts)


@attrs.frozen
class EndpointPolicy:
    """Where plain HTTP is spoken.

    Loopback and ``*.local`` always are: nobody has certificates for them. ``insecure`` adds hosts,
    each ``host`` (any port) or ``host:port``; ``everything_insecure`` adds all.
    """

    insecure: frozenset[str] = attrs.field(default=frozenset(), converter=_lowered)
    everything_insecure: bool = False

    def endpoint(self, registry: str) -> Endpoint:
        """The endpoint of a reference's registry, ``host[:port]``.

        Raises:
            RegistryError: the port is out of range, so that no URL can be made.
        """
        authority = _HUB_API if registry in HUB_HOSTS else registry
        try:
            url = URL(f"https://{authority}")
            host = url.host or ""
        except ValueError as exc:
            raise RegistryError(f"registry {registry!r} is not an address: {exc}") from exc
        plain = self._is_plain(registry.lower(), host)
        return Endpoint(registry, URL(f"http://{authority}") if plain else url)

    def _is_plain(self, registry: str, host: str) -> bool:
        name = host.lower().rstrip(".")
        listed = registry in self.insecure or name in self.insecure
        return self.everything_insecure or listed or is_loopback(name) or name.endswith(".local")
