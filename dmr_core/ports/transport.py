"""HTTP to engines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

__all__ = ["Endpoint", "Headers", "Transport", "UpstreamRequest", "UpstreamResponse"]

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order, names in lower case (RFC 9110 section 5; ASGI's convention)."""


@attrs.frozen
class Endpoint:
    """Where an engine listens: a unix socket, or a loopback port."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else f"{self.host}:{self.port}"


@attrs.frozen
class UpstreamRequest:
    """A request to an engine, ready to be sent. ``path`` includes the query string."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. Must be closed; closing before the end cancels the request."""

    status: int
    headers: Headers

    @abstractmethod
    async def read(self) -> bytes:
        """Bytes as they arrive, ``b""`` at the end.

        Raises:
            UpstreamError: the engine broke off in the middle.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Give the connection back, or close it when bytes are still to come. Idempotent."""


class Transport(Protocol):
    """Sends requests to engines over connections it keeps."""

    @abstractmethod
    async def send(self, endpoint: Endpoint, request: UpstreamRequest) -> UpstreamResponse:
        """Send ``request`` and wait for the head of the answer. Cancelling closes the connection.

        Raises:
            UpstreamError: nobody listens there, or the engine broke off before answering.
        """

    @abstractmethod
    async def forget(self, endpoint: Endpoint) -> None:
        """Close the connections kept to an engine that is gone."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection."""
