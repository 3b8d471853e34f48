"""Calling an ASGI application without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import attrs
from starlette.types import ASGIApp, Message


@attrs.frozen
class Answer:
    """A complete answer; ``parts`` are the pieces the body was sent in."""

    status: int
    headers: dict[str, str]
    parts: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    body: Any = b"",
    headers: Sequence[tuple[str, str]] = (),
    *,
    leave_after: int | None = None,
    stall: bool = False,
) -> Answer:
    """Send a request and collect the answer.

    With ``leave_after`` the client goes away after so many parts; with ``stall`` it never reads a part.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw_path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": method,
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [
            (b"host", b"localhost"),
            *((b"content-length", b"%d" % len(content)) for _ in range(1 if content else 0)),
            *((name.lower().encode(), value.encode()) for name, value in headers),
        ],
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "state": {},
    }
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": content, "more_body": False})
    start: dict[str, Any] = {}
    parts: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        if stall:
            await asyncio.Event().wait()
        if message.get("body"):
            parts.append(bytes(message["body"]))
            if leave_after is not None and len(parts) >= leave_after:
                incoming.put_nowait({"type": "http.disconnect"})
                await asyncio.sleep(0)

    await app(scope, incoming.get, send)
    found = {name.decode(): value.decode() for name, value in start.get("headers", ())}
    return Answer(start.get("status", 0), found, tuple(parts))
