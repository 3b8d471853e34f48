"""Headers of GGUF files: one, or two that are the shards of a model, parted by :data:`NEXT`."""

from __future__ import annotations

from contextlib import suppress

from dmr_adapters.package_source.gguf_metadata import gguf_metadata
from dmr_core.domain.encoding import encode_config
from dmr_core.errors import MalformedArtifactError
from tests.fuzz.properties import config_of, is_config
from tests.fuzz.scratch import put

__all__ = ["NEXT", "target"]

NEXT = b"--next shard--"


def target(data: bytes) -> None:
    """Read the metadata; what comes out can be written into a config and read back."""
    parts = data.split(NEXT, 1)
    names = ["m.gguf"] if len(parts) == 1 else ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    paths = [put(name, part) for name, part in zip(names, parts, strict=True)]
    with suppress(MalformedArtifactError):
        metadata = gguf_metadata(paths)
        is_config(encode_config(config_of(metadata, "gguf")))
