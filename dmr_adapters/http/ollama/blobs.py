"""``HEAD`` and ``POST /api/blobs/:digest``: files that a model is going to be made of."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dmr_adapters.http.asgi import ClientGoneError
from dmr_adapters.http.ollama.errors import shaped
from dmr_adapters.http.services import Services
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, RequestTimeoutError

__all__ = ["BlobsApi"]

_BLOBS: Final = "/api/blobs/"
_KEPT: Final = 3600.0
_MOST: Final = 256
_SILENCE: Final = 30.0


class BlobsApi:
    """Blobs wait for a model to need them: each is kept from the garbage collector for an hour. Close it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: OrderedDict[Digest, tuple[float, AsyncExitStack]] = OrderedDict()

    async def aclose(self) -> None:
        """Nothing waits any more; what no model needed is left to the garbage collector."""
        while self._waiting:
            _, (_, held) = self._waiting.popitem()
            await held.aclose()

    async def head(self, request: Request) -> Response:
        """``HEAD /api/blobs/:digest``: 200 where it is here."""
        digest = _digest(request)
        return Response(status_code=200 if await self._services.store.has_blob(digest) else 404)

    async def receive(self, request: Request) -> Response:
        """``POST /api/blobs/:digest``: 201 once it is here and is what its digest says."""
        digest = _digest(request)
        await self._keep(digest)
        if await self._is_here(digest, request.headers.get("content-length", "")):
            async for _ in _chunks(request):  # clients that are not heard out take it for a failure
                pass
            return Response(status_code=200)
        try:
            await self._services.management().creating.take(digest, _chunks(request))
        except DigestMismatchError as exc:
            await self.used((digest,))
            return shaped(400, f"digest mismatch, expected {str(digest)!r}, got {exc.actual!r}")
        except BaseException:
            await self.used((digest,))
            raise
        return Response(status_code=201)

    async def _is_here(self, digest: Digest, length: str) -> bool:
        """Whether nothing needs to be taken: one that was cut short does. Nothing tells how long it is but the body."""
        if length == "0":
            return await self._services.store.has_blob(digest)
        return length.isdecimal() and await self._services.store.has_blob(digest, int(length[:20]))

    async def used(self, digests: tuple[Digest, ...]) -> None:
        """These blobs belong to a model now, or will not come: they need not be kept for one any more."""
        for digest in digests:
            entry = self._waiting.pop(digest, None)
            if entry is not None:
                await entry[1].aclose()

    async def _keep(self, digest: Digest) -> None:
        now = self._services.clock.monotonic()
        await self.used((digest,))
        while self._waiting:
            oldest = next(iter(self._waiting))
            if len(self._waiting) < _MOST and self._waiting[oldest][0] > now:
                break
            await self.used((oldest,))
        held = AsyncExitStack()
        await held.enter_async_context(self._services.store.lease((digest,)))
        self._waiting[digest] = (now + _KEPT, held)


def _digest(request: Request) -> Digest:
    return Digest.parse(request.url.path.removeprefix(_BLOBS).replace("sha256-", "sha256:", 1))


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    try:
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            if chunk:
                yield chunk
    except TimeoutError:
        raise RequestTimeoutError(f"the blob did not go on for {_SILENCE:g} s") from None
    except ClientDisconnect as exc:
        raise ClientGoneError from exc
