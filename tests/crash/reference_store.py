"""A store as the reference runner leaves it on a disk, with every habit and every leftover it is known for.

Built byte by byte from the description of its formats; no code of dmr writes any of it.
"""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["ReferenceStore", "StoredModel", "build_reference_store", "partial_layer"]

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_V01: Final = "application/vnd.docker.ai.model.config.v0.1+json"
_V02: Final = "application/vnd.docker.ai.model.config.v0.2+json"
_MODELPACK: Final = "application/vnd.cncf.model.config.v1+json"
_GGUF: Final = "application/vnd.docker.ai.gguf.v3"
_FILE: Final = "application/vnd.docker.ai.model.file"
_LICENSE: Final = "application/vnd.docker.ai.license"
_SAFETENSORS: Final = "application/vnd.docker.ai.safetensors"
_RAW: Final = "application/vnd.cncf.model.weight.v1.raw"
_FILEPATH: Final = "org.cncf.model.filepath"
_MODE: Final = 0o644


@attrs.frozen
class StoredModel:
    """A model in it. ``tags`` as the index spells them, ``canonical`` as they read."""

    name: str
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]
    tags: tuple[str, ...] | None
    canonical: tuple[str, ...]
    files: tuple[str, ...]
    unknown: dict[str, Any]

    @property
    def id(self) -> str:
        """Its ID."""
        return digest(self.manifest)


@attrs.frozen
class ReferenceStore:
    """The store at ``root``. ``leftovers`` are files that killed processes left."""

    root: Path
    models: dict[str, StoredModel]
    leftovers: tuple[Path, ...]
    unreadable: tuple[dict[str, Any], ...]


def digest(content: bytes) -> str:
    """The digest of ``content``."""
    return "sha256:" + sha256(content).hexdigest()


def partial_layer() -> bytes:
    """The layer of which a prefix is there."""
    return b"GGUF" + bytes(range(256)) * 12_000


def build_reference_store(root: Path) -> ReferenceStore:
    """Build it at ``root``, an empty directory."""
    shared = _gguf("shared")
    made = [
        _model("plain", [(_GGUF, shared, None)], tags=("docker.io/ai/plain:latest", "docker.io/ai/plain:v2")),
        _model(
            "legacy",
            [(_GGUF, _gguf("legacy"), "legacy.gguf")],
            tags=("legacy",),
            canonical=("docker.io/ai/legacy:latest",),
        ),
        _model("short", [(_GGUF, _gguf("short"), None)], tags=("ai/short:1",), canonical=("docker.io/ai/short:1",)),
        _model(
            "indexed",
            [(_GGUF, _gguf("indexed"), None), (_LICENSE, b"Do as you like.\n", "LICENSE")],
            tags=("index.docker.io/ai/indexed:1",),
            canonical=("docker.io/ai/indexed:1",),
        ),
        _model(
            "hub",
            [(_GGUF, _gguf("hub"), None)],
            tags=("hf.co/org/hub:Q4_K_M",),
            canonical=("huggingface.co/org/hub:Q4_K_M",),
        ),
        _model("untagged", [(_GGUF, shared, None), (_GGUF, _gguf("second"), None)], tags=None),
        _model("emptied", [(_GGUF, _gguf("emptied"), None)], tags=()),
        # Docker v0.2, layer per file, two of them the same: `files` keeps both.
        _model(
            "directory",
            [
                (_SAFETENSORS, _safetensors(), "model.safetensors"),
                (_FILE, b"{}", "config.json"),
                (_FILE, b"{}", "sub/tokenizer_config.json"),
            ],
            config_type=_V02,
            config_format="safetensors",
            tags=("docker.io/ai/directory:latest",),
        ),
        _modelpack("modelpack", config_type=_MODELPACK, artifact_type="application/vnd.cncf.model.manifest.v1+json"),
        # What repackaging by the reference leaves: a ModelPack config under Docker's media type (13.3).
        _modelpack("mismatched", config_type=_V01, artifact_type=None),
    ]
    models = {model.name: model for model in made}
    for model in made:
        _write(root / "manifests" / "sha256" / model.id[7:], model.manifest)
        for content in (model.config, *model.layers):
            _write(root / "blobs" / "sha256" / digest(content)[7:], content, 0o666 & ~0o022)
    unreadable: tuple[dict[str, Any], ...] = (
        {"id": digest(b"lost"), "tags": ["docker.io/ai/lost:latest"], "files": [digest(b"gone")]},
        {"id": "sha512:" + "0" * 128, "tags": ["docker.io/ai/odd:latest"], "files": None, "future": [1]},
    )
    index = {
        "models": [*map(_entry, made[:4]), unreadable[0], *map(_entry, made[4:]), unreadable[1]],
        "future": {"kept": True},
    }
    _write(root / "models.json", json.dumps(index, indent=2).encode())
    _write(root / "layout.json", b'{\n  "version": "1.0.0"\n}')
    _bundles(root, models)
    return ReferenceStore(root, models, tuple(_leftovers(root)), unreadable)


def _entry(model: StoredModel) -> dict[str, Any]:
    tags = None if model.tags is None else list(model.tags)
    return {"id": model.id, "tags": tags, "files": list(model.files), **model.unknown}


def _model(
    name: str,
    layers: list[tuple[str, bytes, str | None]],
    *,
    tags: tuple[str, ...] | None,
    canonical: tuple[str, ...] | None = None,
    config_type: str = _V01,
    config_format: str = "gguf",
    config: dict[str, Any] | None = None,
    artifact_type: str | None = None,
) -> StoredModel:
    document = config or {
        "config": {
            "format": config_format,
            "quantization": "IQ2_XXS/Q4_K_M",
            "parameters": "361.82 M",
            "architecture": "llama",
            "size": "256.35 MiB",
            "gguf": {"general.architecture": "llama", "tokenizer.chat_template": "<|im_start|>"},
            "future_of_config": name,
        },
        "descriptor": {"created": "2025-06-15T12:00:00Z"},
        "rootfs": {"type": "layers", "diff_ids": [digest(content) for _, content, _ in layers]},
        "future": {"name": name},
    }
    config_bytes = _go_json(document)
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": _MANIFEST}
    if artifact_type:
        manifest["artifactType"] = artifact_type
    manifest["config"] = {"mediaType": config_type, "size": len(config_bytes), "digest": digest(config_bytes)}
    manifest["layers"] = [_descriptor(*layer) for layer in layers]
    manifest["futureOfManifest"] = [name]
    files = (*(digest(content) for _, content, _ in layers), digest(config_bytes))
    return StoredModel(
        name=name,
        manifest=_go_json(manifest),
        config=config_bytes,
        layers=tuple(content for _, content, _ in layers),
        tags=tags,
        canonical=canonical if canonical is not None else tuple(tags or ()),
        files=files,
        unknown={"futureOfEntry": {"of": name}} if name in {"plain", "legacy"} else {},
    )


def _modelpack(name: str, *, config_type: str, artifact_type: str | None) -> StoredModel:
    weights = _gguf(name)
    config = {
        "descriptor": {"createdAt": "2025-06-15T12:00:00Z", "family": "llama", "name": name},
        "modelfs": {"type": "layers", "diffIds": [digest(weights)]},
        "config": {"architecture": "llama", "format": "gguf", "paramSize": "8b", "quantization": "Q4_K_M"},
    }
    return _model(
        name,
        [(_RAW, weights, "model.gguf")],
        tags=(f"docker.io/ai/{name}:latest",),
        config_type=config_type,
        config=config,
        artifact_type=artifact_type,
    )


def _descriptor(media_type: str, content: bytes, filepath: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "size": len(content), "digest": digest(content)}
    if filepath is not None:
        found["annotations"] = {_FILEPATH: filepath, "org.cncf.model.file.mediatype.untested": "false"}
    return found


def _bundles(root: Path, models: dict[str, StoredModel]) -> None:
    """One that is whole, one that was never finished, and one of a model that is gone."""
    for name, finished in (("plain", True), ("short", False)):
        model = models[name]
        bundle = root / "bundles" / "sha256" / model.id[7:]
        (bundle / "model").mkdir(parents=True)
        if finished:
            os.link(root / "blobs" / "sha256" / digest(model.layers[0])[7:], bundle / "model" / "model.gguf")
            _write(bundle / "config.json", _go_json(json.loads(model.config)["config"]) + b"\n")
    stale = root / "bundles" / "sha256" / digest(b"departed")[7:]
    _write(stale / "model.gguf", b"GGUF flat, as older versions made them")
    _write(stale / "config.json", b"{}\n")
    _age(stale)


def _leftovers(root: Path) -> list[Path]:
    layer = partial_layer()
    blobs = root / "blobs" / "sha256"
    left = {
        blobs / f"{digest(layer)[7:]}.incomplete": layer[:1_234_567],
        blobs / f"{digest(b'orphan')[7:]}": b"orphan",
        root / "models.json.tmp-123": b'{"models": [',
        root / "manifests" / "sha256" / f"{digest(b'lost')[7:]}.tmp-456": b"{",
        blobs / f"{digest(b'cfg')[7:]}.tmp-789": b"{",
    }
    for path, content in left.items():
        _write(path, content)
        _age(path)
    return list(left)


def _age(path: Path) -> None:
    """Three days: long enough that nobody is still writing it."""
    then = time.time() - 3 * 24 * 3600
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then))


def _write(path: Path, content: bytes, mode: int = _MODE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _go_json(document: Any) -> bytes:
    """Compact, and with Go's HTML escapes."""
    text = json.dumps(document, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _gguf(name: str) -> bytes:
    return b"GGUF\x03\x00\x00\x00" + name.encode() * 1000


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\x00\x00\x80?"
