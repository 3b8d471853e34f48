"""``docker model package`` as the stock CLI does it: an archive for ``/models/load``, built here.

Single raw files as layers, a config and a manifest in Go's serialisation, in a USTAR archive whose last entry is
the manifest. Metadata of the weights is not read: the config says their format and what was asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["Archive", "archive", "from_gguf", "with_context_size"]

_GGUF: Final = "application/vnd.docker.ai.gguf.v3"
_CONFIG: Final = "application/vnd.docker.ai.model.config.v0.1+json"
_PACK_CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
_PACK_WEIGHT: Final = "application/vnd.cncf.model.weight.v1.raw"
_PACK_MANIFEST: Final = "application/vnd.cncf.model.manifest.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_LICENSE: Final = "application/vnd.docker.ai.license"
_PACK_DOC: Final = "application/vnd.cncf.model.doc.v1.raw"


class Archive:
    """A model as blobs: layers, config and manifest."""

    def __init__(self, layers: list[bytes], config: bytes, manifest: bytes) -> None:
        self.layers = layers
        self.config = config
        self.manifest = manifest

    @property
    def id(self) -> str:
        """What the service will call it."""
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


def from_gguf(path: Path, *, licenses: list[Path], context_size: int | None, schema: str) -> Archive:
    """Package one GGUF file, with licences."""
    pack = schema == "cncf"
    files = [(path, _PACK_WEIGHT if pack else _GGUF)]
    files += [(license_path, _PACK_DOC if pack else _LICENSE) for license_path in licenses]
    layers = [file.read_bytes() for file, _ in files]
    digests = [_digest(layer) for layer in layers]
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    document: dict[str, Any]
    if pack:
        document = {
            "descriptor": {"createdAt": created},
            "modelfs": {"type": "layers", "diffIds": digests},
            "config": {"format": "gguf"},
        }
    else:
        facts: dict[str, Any] = {"format": "gguf"}
        if context_size is not None:
            facts["context_size"] = context_size
        document = {
            "config": facts,
            "descriptor": {"created": created},
            "rootfs": {"type": "rootfs", "diff_ids": digests},
        }
    described = [_layer(file, media, layer) for (file, media), layer in zip(files, layers, strict=True)]
    return _sealed(document, described, layers, pack=pack)


def with_context_size(stream: bytes, context_size: int | None) -> Archive:
    """The model of an exported archive, with another context size."""
    blobs: dict[str, bytes] = {}
    manifest = b""
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if member.name == "manifest.json":
                manifest = file.read()
            else:
                blobs["sha256:" + member.name.rpartition("/")[2]] = file.read()
    document = json.loads(manifest)
    for digest, content in blobs.items():
        if _digest(content) != digest:
            raise ValueError(f"the export holds a wrong blob {digest}")
    config = json.loads(blobs[document["config"]["digest"]])
    if context_size is not None:
        config["config"]["context_size"] = context_size
    layers = [blobs[layer["digest"]] for layer in document["layers"]]
    return _sealed(config, document["layers"], layers, pack=document.get("artifactType") == _PACK_MANIFEST)


def archive(model: Archive) -> Iterator[bytes]:
    """The archive in pieces, as it is sent: directories, layers, config, manifest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for content in (*model.layers, model.config):
            _add(tar, "blobs/sha256/" + hashlib.sha256(content).hexdigest(), content)
        _add(tar, "manifest.json", model.manifest)
    content = buffer.getvalue()
    for start in range(0, len(content), 32 * 1024):
        yield content[start : start + 32 * 1024]


def _sealed(config: dict[str, Any], layers: list[dict[str, Any]], contents: list[bytes], *, pack: bool) -> Archive:
    config_bytes = _compact(config)
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": _MANIFEST}
    if pack:
        manifest["artifactType"] = _PACK_MANIFEST
    media = _PACK_CONFIG if pack else _CONFIG
    manifest["config"] = {"mediaType": media, "size": len(config_bytes), "digest": _digest(config_bytes)}
    manifest["layers"] = layers
    return Archive(contents, config_bytes, _compact(manifest))


def _layer(path: Path, media_type: str, content: bytes) -> dict[str, Any]:
    mtime = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat().replace("+00:00", "Z")
    metadata = {
        "name": path.name,
        "mode": path.stat().st_mode & 0o777,
        "uid": 0,
        "gid": 0,
        "size": len(content),
        "mtime": mtime,
        "typeflag": 0,
    }
    return {
        "mediaType": media_type,
        "size": len(content),
        "digest": _digest(content),
        "annotations": {
            "org.cncf.model.file.mediatype.untested": "false",
            "org.cncf.model.file.metadata+json": _compact(metadata).decode(),
            "org.cncf.model.filepath": path.name,
        },
    }


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o666
    tar.addfile(entry, io.BytesIO(content))


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
