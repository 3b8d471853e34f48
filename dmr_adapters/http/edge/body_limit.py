"""Bodies that say they are too large are refused before a byte of them is read.

Bodies of unknown length are counted by whoever reads them.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from dmr_adapters.http.edge.dialect import refuse
from dmr_core.errors import BodyTooLargeError

__all__ = ["CONTROL_BODY", "BodyLimit", "body_limit"]

CONTROL_BODY: Final = 1024 * 1024
"""Bytes of a request that manages models: names, tokens, no content."""
_ARCHIVES: Final = ("/models/load", "/api/blobs/")
_DIGITS: Final = 18


def body_limit(path: str, max_body: int) -> int | None:
    """The most bytes a request to a cleaned path may have; ``None`` where whole models come in."""
    if path.startswith(_ARCHIVES):
        return None
    return CONTROL_BODY if path.startswith(("/models", "/dmr/")) else max_body


class BodyLimit:
    """Looks at ``Content-Length`` alone; ``max_body`` is what inference may send, in bytes."""

    def __init__(self, app: ASGIApp, *, max_body: int) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        for key, value in scope["headers"]:
            if key == b"content-length":
                limit = body_limit(scope["path"], self._max_body)
                if limit is not None and _length(value) > limit:
                    await refuse(scope, BodyTooLargeError(limit))(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _length(value: bytes) -> int:
    """What is no number is the server's to refuse."""
    return int(value[:_DIGITS]) if value.isdigit() else 0
