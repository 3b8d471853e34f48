"""Headers of safetensors files, and the ``config.json`` beside them, which follows :data:`CONFIG`."""

from __future__ import annotations

from contextlib import suppress

from dmr_adapters.package_source.safetensors import safetensors_metadata
from dmr_core.domain.encoding import encode_config
from dmr_core.errors import MalformedArtifactError
from tests.fuzz.properties import config_of, is_config
from tests.fuzz.scratch import put

__all__ = ["CONFIG", "target"]

CONFIG = b"--config.json--"


def target(data: bytes) -> None:
    """Read the metadata; what comes out can be written into a config and read back."""
    weights, _, config = data.partition(CONFIG)
    path = put("m.safetensors", weights)
    put("config.json", config)
    with suppress(MalformedArtifactError):
        metadata = safetensors_metadata([path])
        is_config(encode_config(config_of(metadata, "safetensors")))
