"""DDUF files: zip archives of diffusion models."""

from __future__ import annotations

from contextlib import suppress

from dmr_adapters.package_source.dduf import dduf_metadata
from dmr_core.domain.encoding import encode_config
from dmr_core.errors import MalformedArtifactError
from tests.fuzz.properties import config_of, is_config
from tests.fuzz.scratch import put

__all__ = ["target"]


def target(data: bytes) -> None:
    """Read the metadata; what comes out can be written into a config and read back."""
    with suppress(MalformedArtifactError):
        metadata = dduf_metadata(put("m.dduf", data))
        is_config(encode_config(config_of(metadata, "dduf")))
