"""What holds of everything that a parser lets through."""

from __future__ import annotations

from dmr_adapters.oci_json import MAX_DOCUMENT, decode_config
from dmr_core.domain.artifact import ModelConfig
from dmr_core.ports.package_source import WeightsMetadata

__all__ = ["config_of", "is_config"]

_MAX_CONTEXT = 2**31 - 1


def config_of(metadata: WeightsMetadata, fmt: str) -> ModelConfig:
    """The config that packaging makes of metadata."""
    assert metadata.context_size is None or 0 < metadata.context_size <= _MAX_CONTEXT
    return ModelConfig(
        format=fmt,
        quantization=metadata.quantization,
        parameters=metadata.parameters,
        architecture=metadata.architecture,
        size=metadata.size,
        context_size=metadata.context_size,
        gguf=metadata.raw if fmt == "gguf" else {},
        safetensors=metadata.raw if fmt == "safetensors" else {},
        diffusers=metadata.raw if fmt == "dduf" else {},
    )


def is_config(encoded: bytes) -> None:
    """Bytes we wrote are a config that we can read, and say the same when written again."""
    assert len(encoded) <= MAX_DOCUMENT
    decode_config(encoded)
