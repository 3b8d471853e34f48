"""Writing manifests and configs, byte for byte as the reference tools do.

A model's ID is the digest of these bytes, so the same inputs must give the same bytes everywhere:
compact JSON, fields in declared order, map keys sorted by code point, ``<``, ``>``, ``&`` and the two
line separators escaped (Go ``encoding/json`` with HTML escaping), no trailing newline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dmr_core.domain.artifact import (
    ANNOTATION_FILEPATH,
    ANNOTATION_MEDIATYPE_UNTESTED,
    ANNOTATION_METADATA,
    CONFIG_MODELPACK,
    Descriptor,
    Manifest,
    ModelConfig,
)

__all__ = [
    "config_document",
    "encode_config",
    "encode_for",
    "encode_manifest",
    "encode_modelpack_config",
    "file_annotations",
    "go_json",
    "go_time",
    "go_time_ns",
]

_ESCAPES: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    **{chr(surrogate): "\\ufffd" for surrogate in range(0xD800, 0xE000)},  # what is not UTF-8, Go replaces so
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TABLE: Final = str.maketrans(_ESCAPES)


def go_json(value: Any) -> str:
    """``value`` as Go's encoder writes it. Dictionaries keep their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_TABLE)


def go_time(moment: datetime) -> str:
    """``moment``, which knows its zone, as Go's ``time.RFC3339Nano`` writes it in UTC: no trailing zeros."""
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return _spelled(utc, f"{utc.microsecond:06}")


def go_time_ns(nanoseconds: int) -> str:
    """The same of a time in nanoseconds since the epoch.

    Raises:
        OverflowError: the time lies outside the years 1 to 9999.
    """
    seconds, fraction = divmod(nanoseconds, 10**9)
    return _spelled((_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None), f"{fraction:09}")


def _spelled(moment: datetime, fraction: str) -> str:
    return f"{moment.isoformat(timespec='seconds')}.{fraction}".rstrip("0").rstrip(".") + "Z"


def file_annotations(path: str, *, mode: int, size: int, mtime: str) -> dict[str, str]:
    """The annotations of a layer that carries the file at ``path`` (ModelPack model-spec v0.0.7, annotations).

    ``mode`` is the permission bits. Owner and type are constants: a packaged file belongs to nobody, and
    only regular files are packaged.
    """
    name = path.rpartition("/")[2]
    metadata = {"name": name, "mode": mode, "uid": 0, "gid": 0, "size": size, "mtime": mtime, "typeflag": 0}
    return {
        ANNOTATION_FILEPATH: path,
        ANNOTATION_METADATA: go_json(metadata),
        ANNOTATION_MEDIATYPE_UNTESTED: "false",
    }


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


def config_document(config: ModelConfig) -> dict[str, Any]:
    """The ``config`` object of a Docker-format config, which is also how the API shows it. Empty members are left out."""
    members: dict[str, Any] = {
        "format": config.format,
        "quantization": config.quantization,
        "parameters": config.parameters,
        "architecture": config.architecture,
        "size": config.size,
        "gguf": _sorted(config.gguf),
        "safetensors": _sorted(config.safetensors),
        "diffusers": _sorted(config.diffusers),
    }
    document = {key: value for key, value in members.items() if value}
    return document if config.context_size is None else {**document, "context_size": config.context_size}


def encode_config(config: ModelConfig) -> bytes:
    """The bytes of a Docker-format config, v0.1 and v0.2 alike."""
    document = {
        "config": config_document(config),
        "descriptor": {"created": config.created} if config.created else {},
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
    return dict(sorted(mapping.items()))  # by code point, which is the order of the bytes in UTF-8
