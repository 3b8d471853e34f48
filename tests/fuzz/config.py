"""Model configs, Docker's and ModelPack's."""

from __future__ import annotations

from dmr_adapters.oci_json import decode_config
from dmr_core.domain.artifact import Format
from dmr_core.domain.encoding import encode_config
from dmr_core.errors import MalformedArtifactError

__all__ = ["target"]


def target(data: bytes) -> None:
    """Decode; what comes out can be asked anything, and survives being written and read."""
    try:
        config = decode_config(data)
    except MalformedArtifactError:
        return
    assert isinstance(config.created_unix, int)
    Format.of(config.format)
    assert decode_config(encode_config(config)) == config
