"""A small registry that counts what it sends: models made of noise, served over plain HTTP with ranges."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Final

import attrs

__all__ = ["CountingRegistry", "RemoteModel", "counting_registry", "noise", "remote_model"]

_PIECE: Final = 64 * 1024
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE: Final = "application/vnd.docker.ai.model.config.v0.1+json"
_GGUF: Final = "application/vnd.docker.ai.gguf.v3"


@attrs.frozen
class RemoteModel:
    """A model as a registry has it."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def id(self) -> str:
        """Its ID."""
        return digest(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything but the manifest, by digest."""
        return {digest(content): content for content in (*self.layers, self.config)}


def digest(content: bytes) -> str:
    """The digest of ``content``."""
    return "sha256:" + sha256(content).hexdigest()


def noise(name: str, size: int) -> bytes:
    """``size`` bytes that look like a GGUF file's beginning, and are the same whenever ``name`` is."""
    return b"GGUF" + Random(name).randbytes(size - 4)


def remote_model(layers: Sequence[bytes], media_types: Sequence[str] = ()) -> RemoteModel:
    """A model of these layers."""
    types = media_types or [_GGUF] * len(layers)
    config = json.dumps(
        {
            "config": {"format": "gguf", "size": f"{sum(map(len, layers))}B"},
            "rootfs": {"type": "rootfs", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()
    described = [
        {"mediaType": kind, "size": len(layer), "digest": digest(layer)}
        for kind, layer in zip(types, layers, strict=True)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "size": len(config), "digest": digest(config)},
        "layers": described,
    }
    return RemoteModel(json.dumps(manifest).encode(), config, tuple(layers))


@attrs.define(eq=False)
class CountingRegistry:
    """A running registry. ``sent`` is how many bytes of each blob it sent, configs included."""

    host: str = ""
    models: dict[str, RemoteModel] = attrs.field(factory=dict)
    sent: Counter[str] = attrs.field(factory=Counter)
    turn: threading.Lock = attrs.field(factory=threading.Lock)
    _blobs: dict[str, bytes] = attrs.field(factory=dict)

    def serve(self, name: str, model: RemoteModel) -> None:
        """Have ``model`` as ``name``, which is a repository with a tag."""
        self.models[name] = model
        self._blobs |= model.blobs

    def find(self, repository: str, kind: str, reference: str) -> bytes | None:
        """A blob, or a manifest by tag or digest."""
        if kind == "blobs":
            return self._blobs.get(reference)
        named = self.models.get(f"{repository}:{reference}")
        if named is not None:
            return named.manifest
        return next((model.manifest for model in self.models.values() if model.id == reference), None)

    def note(self, reference: str, count: int) -> None:
        """Count what was sent."""
        with self.turn:
            self.sent[reference] += count

    def forget(self) -> None:
        """Count from nothing again."""
        with self.turn:
            self.sent.clear()


@contextmanager
def counting_registry() -> Iterator[CountingRegistry]:
    """Serve on a port of loopback."""
    registry = CountingRegistry()

    class Handler(_Handler):
        subject = registry

    with _Server(("127.0.0.1", 0), Handler) as server:
        registry.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed here: that is what it is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    subject: CountingRegistry

    def do_GET(self) -> None:
        """Answer a manifest or a blob, or a range of it."""
        parts = self.path.strip("/").split("/")
        if len(parts) < 4 or parts[0] != "v2":
            self._answer(200, b"{}", {})
            return
        repository, kind, reference = "/".join(parts[1:-2]), parts[-2], parts[-1]
        content = self.subject.find(repository, kind, reference)
        if content is None:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})
            return
        headers = {
            "Docker-Content-Digest": digest(content) if kind == "manifests" else reference,
            "Content-Type": _MANIFEST_TYPE if kind == "manifests" else "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if kind == "blobs" else None
        if asked is None:
            self._answer(200, content, headers, reference if kind == "blobs" else None)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start > end:
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._answer(206, content[start : end + 1], headers, reference)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Be quiet."""

    def _answer(self, status: int, content: bytes, headers: dict[str, str], counted: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            self.wfile.write(piece)
            if counted is not None:
                self.subject.note(counted, len(piece))
