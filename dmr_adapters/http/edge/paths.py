"""One spelling for every path, before anything looks at it.

Clients join base URLs with a trailing slash, so ``//`` is common, and a redirect would lose a POST's body: paths are
cleaned in place. The server has undone percent-encoding before, so ``%2e%2e`` is ``..`` here, and a name's ``%2F`` a
slash. Whatever guards a path sees the cleaned one.
"""

from __future__ import annotations

import posixpath
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["DESKTOP_PREFIX", "PathCleaner", "clean_path"]

DESKTOP_PREFIX: Final = "/exp/vDD4.40"
"""Where Docker Desktop's proxy has these routes."""


def clean_path(path: str) -> str:
    """``path`` without empty, ``.`` and ``..`` segments, without a slash at its end, and without Desktop's prefix."""
    if "//" in path or "/." in path:
        path = "/" + posixpath.normpath("/" + path).lstrip("/")
    if path.startswith(DESKTOP_PREFIX):
        rest = path[len(DESKTOP_PREFIX) :]
        if not rest or rest.startswith("/"):
            path = rest or "/"
    return path if len(path) == 1 else path.rstrip("/") or "/"


class PathCleaner:
    """Applies :func:`clean_path`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        path: str = scope["path"]
        if "//" in path or "/." in path or path.endswith("/") or path.startswith(DESKTOP_PREFIX):
            cleaned = clean_path(path)
            scope = {**scope, "path": cleaned, "raw_path": cleaned.encode("utf-8", "replace")}
        await self._app(scope, receive, send)
