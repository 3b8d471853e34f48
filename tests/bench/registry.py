"""Debian's ``docker-registry`` on loopback, with a model whose bytes were put into its storage directly."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.bench.processes import Unavailable, free_port, running, wait_for

__all__ = ["MANIFEST_TYPE", "RemoteModel", "registry_serving", "remote_model", "write_noise"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.docker.ai.model.config.v0.1+json"
_BLOCK = 4 * 1024 * 1024
_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}", secret: not-a-secret}}
"""


@attrs.frozen
class RemoteModel:
    """A model of one layer: its manifest and config, and the file that holds the layer."""

    manifest: bytes
    config: bytes
    layer: Path
    digest: str

    @property
    def size(self) -> int:
        """Bytes of the layer."""
        return self.layer.stat().st_size


def write_noise(path: Path, size: int, head: bytes = b"") -> str:
    """Fill a file with bytes that do not compress, after ``head``; their sha256 in hex."""
    block, hashed, left = os.urandom(_BLOCK), hashlib.sha256(), size
    with path.open("wb", buffering=0) as file:
        number = 0
        while left:
            piece = (head + block[len(head) :] if not number else number.to_bytes(8, "big") + block[8:])[:left]
            file.write(piece)
            hashed.update(piece)
            left -= len(piece)
            number += 1
        os.fsync(file.fileno())
    return hashed.hexdigest()


def remote_model(layer: Path, size: int) -> RemoteModel:
    """Make the layer at ``layer``, and the documents of a model around it."""
    digest = "sha256:" + write_noise(layer, size, b"GGUF")
    inner = {"format": "gguf", "size": f"{size}B"}
    config = json.dumps({"config": inner, "rootfs": {"type": "rootfs", "diff_ids": [digest]}}).encode()
    described = {"mediaType": _CONFIG_TYPE, "size": len(config), "digest": _digest(config)}
    weights = {"mediaType": "application/vnd.docker.ai.gguf.v3", "size": size, "digest": digest}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": [weights]}
    return RemoteModel(json.dumps(manifest).encode(), config, layer, digest)


@contextlib.contextmanager
def registry_serving(root: Path, repository: str, model: RemoteModel | None) -> Iterator[str]:
    """A registry with ``model`` as ``repository:latest``; gives its ``host:port``. ``root`` is an empty directory."""
    program = shutil.which("docker-registry")
    if program is None:
        raise Unavailable("docker-registry is not on PATH: apt-get install docker-registry")
    root.mkdir(exist_ok=True)
    if model is not None:
        _store(root / "data" / "docker" / "registry" / "v2", repository, model)
    port, config, log = free_port(), root / "config.yml", root / "registry.log"
    config.write_text(_CONFIG.format(root=root / "data", port=port))
    with running([program, "serve", str(config)], {"PATH": os.defpath, "OTEL_TRACES_EXPORTER": "none"}, log) as process:
        wait_for(lambda: _answers(port), process, log)
        yield f"127.0.0.1:{port}"


def _store(root: Path, repository: str, model: RemoteModel) -> None:
    """The layout of the registry's file system driver."""
    names = root / "repositories" / repository
    manifest = _digest(model.manifest)
    for digest, content in ((manifest, model.manifest), (_digest(model.config), model.config), (model.digest, None)):
        blob = root / "blobs" / "sha256" / digest[7:9] / digest[7:] / "data"
        blob.parent.mkdir(parents=True)
        if content is None:
            os.link(model.layer, blob)
        else:
            blob.write_bytes(content)
        _link(names / "_layers" / "sha256" / digest[7:], digest)
    _link(names / "_manifests" / "revisions" / "sha256" / manifest[7:], manifest)
    _link(names / "_manifests" / "tags" / "latest" / "current", manifest)
    _link(names / "_manifests" / "tags" / "latest" / "index" / "sha256" / manifest[7:], manifest)


def _link(directory: Path, digest: str) -> None:
    directory.mkdir(parents=True)
    (directory / "link").write_text(digest)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
