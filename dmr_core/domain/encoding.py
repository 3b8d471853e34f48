"""Writing manifests and configs, byte for byte as the reference tools do.

A model's ID is the digest of these bytes, so the same inputs must give the same bytes everywhere:
compact JSON, fields in declared order, map keys sorted by code point, ``<``, ``>``, ``&`` and the two
line separators escaped (Go ``encoding/json`` with HTML escaping), no trailing newline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dmr_core.domain.artifact import CONFIG_MODELPACK, Descriptor, Manifest, ModelConfig

__all__ = ["encode_config", "encode_manifest", "encode_modelpack_config", "go_json"]

_ESCAPES: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "\x7f": "\x7f",
}
_TABLE: Final = str.maketrans(_ESCAPES)


def go_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """``value`` as Go's encoder writes it. Dictionaries keep their order."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode().translate(_TABLE)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest dmr builds."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.media_type}
    if manifest.artifact_type:
        document["artifactType"] = manifest.artifact_type
    document["config"] = _descriptor(manifest.config)
    document["layers"] = [_descriptor(layer) for layer in manifest.layers]
    if manifest.annotations:
        document["annotations"] = _sorted(manifest.annotations)
    return go_json(document).encode()


def encode_config(config: ModelConfig) -> bytes:
    """The bytes of a Docker-format config, v0.1 and v0.2 alike."""
    inner: dict[str, Any] = {
        "format": config.format,
        "quantization": config.quantization,
        "parameters": config.parameters,
        "architecture": config.architecture,
        "size": config.size,
        "gguf": _sorted(config.gguf),
        "safetensors": _sorted(config.safetensors),
        "diffusers": _sorted(config.diffusers),
    }
    inner = {key: value for key, value in inner.items() if value}
    if config.context_size is not None:
        inner["context_size"] = config.context_size
    descriptor = {"created": config.created} if config.created else {}
    document = {
        "config": inner,
        "descriptor": descriptor,
        "rootfs": {"type": "rootfs", "diff_ids": list(config.diff_ids)},
    }
    return go_json(document).encode()


def encode_modelpack_config(config: ModelConfig) -> bytes:
    """The bytes of a CNCF ModelPack config (model-spec v0.0.7) saying what ModelPack can say."""
    descriptor = {"createdAt": config.created, "family": config.architecture}
    inner = {
        "architecture": config.architecture,
        "format": config.format,
        "paramSize": config.parameters,
        "quantization": config.quantization,
    }
    document = {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "modelfs": {"type": "layers", "diffIds": list(config.diff_ids)},
        "config": {key: value for key, value in inner.items() if value},
    }
    return go_json(document).encode()


def encode_for(media_type: str, config: ModelConfig) -> bytes:
    """``config`` in the schema that ``media_type`` names."""
    return encode_modelpack_config(config) if media_type == CONFIG_MODELPACK else encode_config(config)


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    document: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "digest": str(descriptor.digest),
    }
    if descriptor.annotations:
        document["annotations"] = _sorted(descriptor.annotations)
    return document


def _sorted(mapping: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(mapping.items(), key=lambda item: item[0].encode()))
