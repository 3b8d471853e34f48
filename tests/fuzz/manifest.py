"""OCI manifests, as a registry or an archive hands them over."""

from __future__ import annotations

import attrs

from dmr_adapters.oci_json import MAX_LAYERS, decode_manifest
from dmr_core.domain.artifact import check_supported
from dmr_core.domain.encoding import encode_manifest
from dmr_core.errors import MalformedArtifactError, UnsupportedFormatError

__all__ = ["target"]


def target(data: bytes) -> None:
    """Decode; what comes out is bounded, can be asked anything, and survives being written and read."""
    try:
        manifest = decode_manifest(data)
        check_supported(manifest)
    except (MalformedArtifactError, UnsupportedFormatError):
        return
    assert len(manifest.layers) <= MAX_LAYERS
    assert all(0 <= blob.size < 1 << 63 for blob in manifest.blobs)
    manifest.weights_format()
    # An empty artifactType says as much as none.
    plain = attrs.evolve(manifest, artifact_type=manifest.artifact_type or None)
    assert decode_manifest(encode_manifest(manifest)) == plain
