"""Lists of models as they go over the wire, kept from one request to the next.

A store may hold ten thousand models, whose list is megabytes of JSON, and clients poll it. So the text of
a model is made once, a list is put together again only after a change, and who has it already gets 304.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import attrs
import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmr_core.domain.model import Model
from dmr_core.services.catalog import CatalogService

__all__ = ["ModelListing"]

_BATCH: Final = 100  # encoded in about a millisecond: nobody waits long for a list that somebody else asked for


@attrs.frozen
class _Page:
    """A list, and the part of it that is each model's, by the identity of the model, which it keeps alive."""

    generation: int
    body: bytes
    etag: str
    parts: dict[int, tuple[Model, memoryview]]


class ModelListing:
    """Answers requests for every model there is.

    ``render`` makes the JSON value of a model and may depend on nothing but the model; ``opening`` and
    ``closing`` are what the list stands in.
    """

    def __init__(
        self, catalog: CatalogService, render: Callable[[Model], Any], opening: bytes = b"[", closing: bytes = b"]\n"
    ) -> None:
        self._catalog = catalog
        self._render = render
        self._opening, self._closing = opening, closing
        self._page = _Page(-1, b"", "", {})
        self._making = asyncio.Lock()

    async def answer(self, request: Request) -> Response:
        """The list as it is now, or 304 if the client says that it has it (RFC 9110, 13.1.2)."""
        await self._catalog.refresh()
        page = self._page
        if page.generation != self._catalog.generation:
            async with self._making:
                page = self._page = await self._current()
        headers = {"etag": page.etag, "cache-control": "no-cache"}
        if _names(request.headers.get("if-none-match", ""), page.etag):
            return Response(status_code=304, headers=headers)
        return Response(page.body, headers=headers, media_type="application/json")

    async def _current(self) -> _Page:
        # Taken before the models: should they change in between, the list is made once too often, never too seldom.
        generation = self._catalog.generation
        if self._page.generation == generation:
            return self._page
        models, known = self._catalog.list(), self._page.parts
        hasher = hashlib.blake2b(self._opening, digest_size=16)
        texts: list[bytes | memoryview] = []
        for begin in range(0, len(models), _BATCH):
            if begin:
                await asyncio.sleep(0)
            for model in models[begin : begin + _BATCH]:
                part = known.get(id(model))
                text = orjson.dumps(self._render(model)) if part is None else part[1]
                hasher.update(text)
                texts.append(text)
        body = b"".join((self._opening, b",".join(texts), self._closing))
        view, at, parts = memoryview(body), len(self._opening), {}
        for model, text in zip(models, texts, strict=True):
            parts[id(model)] = model, view[at : at + len(text)]
            at += len(text) + 1
        return _Page(generation, body, f'"{hasher.hexdigest()}"', parts)


def _names(condition: str, etag: str) -> bool:
    """Whether an ``If-None-Match`` names ``etag``; weak and strong ones compare alike there."""
    return any(name.strip().removeprefix("W/") in (etag, "*") for name in condition.split(","))
