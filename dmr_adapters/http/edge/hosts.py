"""Which names the service may be called by.

DNS rebinding: a page of ``evil.example`` has its name resolved to 127.0.0.1, and is then, to the browser, of the same
origin as the service. The name shows in ``Host`` (RFC 9110, 7.2), which no page can forge. An address there is harmless:
only names can be rebound. So is a name without a dot, which no stranger can have a browser resolve; services are called
by such names inside container networks.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

__all__ = ["HostPolicy", "host_name"]

_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]"})  # noqa: S104 - compared, not bound
_DOCKER: Final = frozenset({"host.docker.internal", "model-runner.docker.internal", "gateway.docker.internal"})


class HostPolicy:
    """The names of one service. ``extra`` are the operator's: exact ones, ``*.example.com``, or ``*`` for any."""

    def __init__(self, *, extra: Collection[str] = (), loopback: bool, keyed: bool) -> None:
        names = {name.lower().rstrip(".") for name in extra}
        # Pages do not know the key, and beyond loopback the operator's proxy may have any name.
        self._any = "*" in names or (keyed and not loopback and not names)
        self._names = _LOCAL | _DOCKER | {name for name in names if "*" not in name}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*.") and len(name) > 2)
        self._loopback = loopback
        if not loopback:
            self._names |= {socket.gethostname().lower()}

    def allows(self, host: str) -> bool:
        """Whether a request with this ``Host`` may pass."""
        if self._any:
            return True
        name = host_name(host)
        if name in self._names or (self._suffixes and name.endswith(self._suffixes)):
            return True
        return not self._loopback and (_is_address(name) or _LABEL.fullmatch(name) is not None)


def host_name(host: str) -> str:
    """The host without its port, in lower case and without a dot at its end; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return (host.partition("]")[0] + "]").lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
