"""Hypercorn's connection, except that it ends when the client hangs up.

Hypercorn 0.18 waits for the keep-alive time-out even where the client has closed an idle connection: until then the
socket stays in CLOSE-WAIT, with two tasks. Whatever connects anew for every request, as curl does, would use up the
descriptors of the service at a dozen requests a second.
"""

from __future__ import annotations

from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated

__all__ = ["Connection", "use_connection"]


class Connection(TCPServer):
    """One connection, from its beginning until the client or the keep-alive time-out ends it."""

    _hung_up = False

    async def protocol_send(self, event: Event) -> None:
        """Stock, but nobody begins to wait for another request once none can come."""
        if self._hung_up and isinstance(event, Updated):
            return
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._hung_up = True
        await self.idle_task.stop()


def use_connection() -> None:
    """Have Hypercorn make its connections of this class; it has no setting for that."""
    setattr(run, "TCPServer", Connection)  # noqa: B010 - an assignment to a class is an error to the type checker
