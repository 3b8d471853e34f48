"""Valid inputs of every target, to start from; nothing of ours that a target runs is imported here."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from typing import Any

__all__ = ["samples"]

_A, _B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
_SHARD, _CONFIG = b"--next shard--", b"--config.json--"  # as the targets part them


def samples(target: str) -> tuple[bytes, ...]:
    """Inputs that the target of this name takes without complaint."""
    return _SAMPLES[target]


def _text(order: str, version: int, text: str) -> bytes:
    return struct.pack(order + ("I" if version == 1 else "Q"), len(text)) + text.encode()


def _gguf(order: str = "<", version: int = 3, shard: int | None = None) -> bytes:
    """A file with a value of every type, an array of each kind and two tensors."""
    length = order + ("I" if version == 1 else "Q")

    def pair(key: str, kind: int, value: bytes) -> bytes:
        return _text(order, version, key) + struct.pack(order + "I", kind) + value

    def array(kind: int, items: list[bytes]) -> bytes:
        return struct.pack(order + "I", kind) + struct.pack(length, len(items)) + b"".join(items)

    def u32(value: int) -> bytes:
        return struct.pack(order + "I", value)

    pairs = [
        pair("general.architecture", 8, _text(order, version, "llama")),
        pair("general.file_type", 4, u32(15)),
        pair("llama.context_length", 4, u32(8192)),
        pair("general.alignment", 4, u32(32)),
        pair("llama.rope.freq_base", 6, struct.pack(order + "f", 10000.0)),
        pair("some.bool", 7, b"\1"),
        pair("some.double", 12, struct.pack(order + "d", float("inf"))),
        pair("some.long", 11, struct.pack(order + "q", -1)),
        pair("some.byte", 1, b"\xff"),
        pair("tokenizer.ggml.tokens", 9, array(8, [_text(order, version, f"t{n}") for n in range(60)])),
        pair("tokenizer.ggml.types", 9, array(5, [u32(n) for n in range(3)])),
        pair("nested", 9, array(9, [array(4, [u32(1)]), array(8, [])])),
    ]
    if shard is not None:
        pairs.append(pair("split.no", 2, struct.pack(order + "H", shard)))
    tensors = [
        _text(order, version, name) + u32(2) + struct.pack(length, 256) + struct.pack(length, 2)
        + u32(kind) + struct.pack(order + "Q", offset)
        for name, kind, offset in (("blk.0.weight", 12, 0), ("output_norm.weight", 0, 288))
    ]  # fmt: skip
    head = b"GGUF" + u32(version) + struct.pack(length, len(tensors)) + struct.pack(length, len(pairs))
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(288 + 2048)


def _safetensors(config: object, **metadata: str) -> bytes:
    header = _json(
        {
            "__metadata__": {"format": "pt", **metadata},
            "a.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [64, 68]},
            "empty": {"dtype": "F4", "shape": [0], "data_offsets": [68, 68]},
        }
    )
    return struct.pack("<Q", len(header)) + header + bytes(68) + _CONFIG + _json(config)


def _dduf(*, long: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("model_index.json", b'{"_class_name":"FluxPipeline"}'), ("vae/config.json", b"{}")):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=long) as file:
                file.write(content)
        archive.comment = b"comment" if long else b""
    return buffer.getvalue()


def _tar(fmt: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as archive:
        for name, content in (("manifest.json", b"{}"), ("blobs/sha256/" + "a" * 64, b"x" * 600), ("é" * 110, b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo(f"kind-{kind.decode()}")
            info.type, info.linkname = kind, "../../etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_DESCRIPTOR = {"mediaType": "application/vnd.docker.ai.gguf.v3", "size": 9, "digest": _A}
_MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.docker.ai.model.config.v0.1+json", "size": 7, "digest": _B},
    "layers": [{**_DESCRIPTOR, "annotations": {"org.cncf.model.filepath": "m.gguf"}}],
}
_CNCF = "application/vnd.cncf.model"
_SAMPLES = {
    "gguf": (
        _gguf(),
        _gguf(">"),
        _gguf(version=1),
        _gguf(version=2),
        _gguf(shard=0) + _SHARD + _gguf(shard=1),
    ),
    "safetensors": (
        _safetensors(None),
        _safetensors({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}),
        _safetensors({"model_type": "gemma3", "text_config": {"n_ctx": 4096}}, architecture="X"),
    ),
    "dduf": (b"PK", _dduf(long=False), _dduf(long=True)),
    "manifest": (
        _json(_MANIFEST),
        _json(
            {
                **_MANIFEST,
                "artifactType": f"{_CNCF}.manifest.v1+json",
                "annotations": {"a": "b"},
                "config": {"mediaType": f"{_CNCF}.config.v1+json", "size": 0, "digest": _B, "annotations": None},
                "layers": [{**_DESCRIPTOR, "mediaType": f"{_CNCF}.weight.v1.gguf"}] * 2,
            }
        ),
        _json({"schemaVersion": 2, "manifests": []}),
    ),
    "config": (
        _json(
            {
                "config": {"format": "gguf", "quantization": "MOSTLY_Q4_K_M", "parameters": "361.82M", "size": "1B",
                           "architecture": "llama", "gguf": {"a": "b"}, "context_size": 4096},
                "descriptor": {"created": "2025-06-15T12:00:00Z"},
                "rootfs": {"type": "rootfs", "diff_ids": [_A]},
            }
        ),
        _json({"config": {"format": "dduf", "diffusers": {"layout": "dduf"}, "safetensors": None}, "rootfs": None}),
        _json(
            {
                "descriptor": {"createdAt": "2025-06-15T12:00:00+02:00", "family": "llama", "licenses": ["MIT"]},
                "modelfs": {"type": "layers", "diffIds": [_A]},
                "config": {"architecture": "llama", "format": "GGUF", "paramSize": "8b", "quantization": "q4"},
            }
        ),
    ),
    "index": (
        _json({"models": [{"id": _A, "tags": ["docker.io/ai/m:latest", "m", "hf.co/a/b"], "files": [_B, _A]}]}),
        _json({"models": [{"id": _A, "tags": None, "more": 1}, {"id": _A, "tags": ["x"]}, 7, {"id": 1}], "v": 2}),
        b'{"models":null}',
        b"null",
    ),
    "archive": (_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.GNU_FORMAT)[:2048]),
}  # fmt: skip
