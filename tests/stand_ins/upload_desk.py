"""Uploads as registries do them, to be laid over a :class:`FaultyRegistry` as its script, and to be disturbed."""

from __future__ import annotations

import re
from typing import Final

import attrs
from aiohttp import web

from dmr_core.domain.digest import Digest
from tests.stand_ins.faulty_registry import FaultyRegistry, refuse

__all__ = ["UploadDesk"]

_CONTENT_RANGE: Final = re.compile(r"(\d+)-(\d+)")
_PIECE: Final = 4096


class Reset(Exception):  # noqa: N818 - no error of the test
    """The connection was cut."""


@attrs.define(eq=False)
class UploadDesk:
    """Places for uploads; the query of their addresses changes with every answer, and with ``moves`` the path as well.

    ``resets`` are the steps at which the connection is cut: every arrival of a request, every 4 KiB of a body and every
    answer is one, counted in ``steps``. ``least`` is told as ``OCI-Chunk-Min-Length``. ``elsewhere`` is the start of
    the addresses given out, where they are not relative. ``received`` counts the bytes of bodies. With ``mounts``, a blob
    that the registry has is mounted.
    """

    registry: FaultyRegistry
    resets: frozenset[int] = frozenset()
    least: int = 0
    elsewhere: str = ""
    mounts: bool = False
    moves: bool = False
    steps: int = 0
    received: int = 0
    places: dict[str, bytearray] = attrs.field(factory=dict)
    cancelled: list[str] = attrs.field(factory=list)
    _given: int = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """A script for the registry."""
        if "/blobs/uploads/" not in request.path:
            return None
        try:
            self.step(request)
            answer = await self._answer(request)
            self.step(request)
        except Reset:
            return web.Response()
        return answer

    def step(self, request: web.Request) -> None:
        """Count, and cut the connection where it is time."""
        self.steps += 1
        if self.steps in self.resets:
            assert request.transport is not None
            request.transport.abort()
            raise Reset

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if request.method == "POST":
            digest = request.query.get("mount", "")
            if self.mounts and digest in self.registry.blobs:
                return web.Response(status=201, headers={"Docker-Content-Digest": digest})
            return self.place(bytearray(), 202)
        content = self.places.get(name)
        if content is None:
            return refuse(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown")
        if request.method == "GET":
            return self.place(content, 204, name)
        if request.method == "DELETE":
            self.cancelled.append(name)
            del self.places[name]
            return web.Response(status=204)
        if request.method == "PATCH":
            asked = _CONTENT_RANGE.fullmatch(request.headers["Content-Range"])
            if not asked or int(asked[1]) != len(content):
                return refuse(416, "RANGE_INVALID", "not where the upload is")
            await self.take(request, content)
            return self.place(content, 202, name)
        await self.take(request, content)
        digest = request.query["digest"]
        if str(Digest.of(bytes(content))) != digest:
            return refuse(400, "DIGEST_INVALID", "the bytes are others")
        self.registry.blobs[digest] = bytes(content)
        del self.places[name]
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    async def take(self, request: web.Request, content: bytearray) -> None:
        """Receive a body in steps."""
        if (request.content_length or 0) < _PIECE:
            piece = await request.read()  # has been read already
            content += piece
            self.received += len(piece)
            return
        while piece := await request.content.read(_PIECE):
            content += piece
            self.received += len(piece)
            self.step(request)

    def place(self, content: bytearray, status: int, name: str = "") -> web.Response:
        """An address for what has been received, so far under ``name``."""
        self._given += 1
        if self.moves or not name:
            self.places.pop(name, None)
            name = f"u{self._given}"
        self.places[name] = content
        headers = {
            "Location": f"{self.elsewhere}/v2/ai/model/blobs/uploads/{name}?state=a%2Fb{self._given}",
            "Range": f"0-{max(0, len(content) - 1)}",
        }
        if self.least:
            headers["OCI-Chunk-Min-Length"] = str(self.least)
        return web.Response(status=status, headers=headers)
