"""A registry that misbehaves on demand: an aiohttp server in this process, on loopback.

It serves one model correctly; a test lays a ``script`` over that to answer some requests differently.
Everything it was sent is kept in ``seen``, so that a test can say what must not have been.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
from aiohttp import web

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.testing.contracts.registry import Sample, sample

__all__ = ["FaultyRegistry", "Script", "Seen", "faulty_registry", "refuse"]

_RANGE: Final = re.compile(r"bytes=(\d+)-")


@attrs.frozen
class Seen:
    """A request as it arrived; ``body`` only of small requests."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        """The credentials it brought."""
        return self.headers.get("Authorization")


Script = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a request in its own way, or leaves it to the registry with ``None``."""


@attrs.define(eq=False)
class FaultyRegistry:
    """The server. ``host`` is what to put into references; ``other_name`` is another host name for it."""

    port: int = 0
    model: Sample = attrs.field(factory=sample)
    script: Script | None = None
    seen: list[Seen] = attrs.field(factory=list)
    blobs: dict[str, bytes] = attrs.field(factory=dict)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def reference(self) -> Reference:
        """The model it has."""
        return Reference(self.host, "ai/model")

    def paths(self, method: str = "GET") -> list[str]:
        """Where requests of a method went."""
        return [request.path for request in self.seen if request.method == method]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the request, then let the script answer it, else the registry."""
        small = (request.content_length or 0) < 4096
        body = await request.read() if small else b""
        self.seen.append(
            Seen(request.method, request.path, request.rel_url.raw_query_string, dict(request.headers), body)
        )
        answer = await self.script(request) if self.script else None
        return answer or await self._serve(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = request.path.removeprefix("/v2/ai/model/").partition("/")
        if request.method in {"GET", "HEAD"} and kind == "manifests":
            return web.Response(
                body=self.model.artifact.manifest_bytes,
                content_type=self.model.artifact.manifest.media_type,
                headers={"Docker-Content-Digest": str(self.model.artifact.id)},
            )
        if request.method in {"GET", "HEAD"} and kind == "blobs" and name in self.blobs:
            return self._blob(request, self.blobs[name])
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/v2/ai/model/blobs/uploads/1?state=a%2Fb"})
        if request.method == "PUT" and kind == "blobs":
            digest = request.query["digest"]
            self.blobs[digest] = await request.read()
            return web.Response(status=201, headers={"Docker-Content-Digest": str(Digest.of(self.blobs[digest]))})
        if request.method == "PUT":
            return web.Response(status=201)
        return refuse(404, "UNKNOWN", "not here")

    def _blob(self, request: web.Request, content: bytes) -> web.Response:
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if not asked:
            return web.Response(body=content)
        start = int(asked[1])
        if start >= len(content):
            return web.Response(status=416)
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return web.Response(status=206, body=content[start:], headers={"Content-Range": span})


def refuse(status: int, code: str, message: str, **headers: str) -> web.Response:
    """An error as registries write it (OCI distribution-spec, "Error Codes")."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=named)


@asynccontextmanager
async def faulty_registry(model: Sample | None = None) -> AsyncIterator[FaultyRegistry]:
    """Run one until the block ends; ``released`` is set then, so that hanging scripts let go."""
    registry = FaultyRegistry(model=model or sample())
    registry.blobs = {str(Digest.of(content)): content for content in registry.model.blobs}
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", registry.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        registry.port = runner.addresses[0][1]
        yield registry
    finally:
        registry.released.set()
        await runner.cleanup()
