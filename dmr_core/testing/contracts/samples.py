"""Small artifacts for contract suites, and ways to put them into a store."""

from __future__ import annotations

from collections.abc import Sequence

from dmr_core.domain.artifact import (
    ANNOTATION_FILEPATH,
    CONFIG_V01,
    Artifact,
    Descriptor,
    LayerType,
    Manifest,
    ModelConfig,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest
from dmr_core.ports.model_store import ModelStore

__all__ = ["build_artifact", "content_of", "layer_of", "put_blob", "put_model"]


def layer_of(data: bytes, media_type: str = LayerType.GGUF, filepath: str | None = None) -> Descriptor:
    """The descriptor of a layer that holds ``data``."""
    annotations = {ANNOTATION_FILEPATH: filepath} if filepath is not None else {}
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), annotations=annotations)


def build_artifact(
    layers: Sequence[Descriptor], config: ModelConfig | None = None, media_type: str = CONFIG_V01
) -> Artifact:
    """An artifact of these layers, as dmr's own tools write it."""
    config = config or ModelConfig(
        format="gguf", context_size=4096, diff_ids=tuple(str(layer.digest) for layer in layers)
    )
    config_bytes = encode_config(config)
    manifest = Manifest(config=layer_of(config_bytes, media_type), layers=tuple(layers))
    return Artifact(
        manifest=manifest,
        manifest_bytes=encode_manifest(manifest),
        config=config,
        config_bytes=config_bytes,
    )


async def put_blob(store: ModelStore, data: bytes) -> None:
    """Write a blob, or what is missing of it."""
    async with store.write_blob(layer_of(data)) as writer:
        await writer.write(data[writer.offset :])
        await writer.commit()


async def put_model(store: ModelStore, *blobs: bytes) -> Artifact:
    """Write GGUF layers that hold ``blobs``, and the model they make."""
    for data in blobs:
        await put_blob(store, data)
    artifact = build_artifact([layer_of(data) for data in blobs])
    await store.add(artifact)
    return artifact


async def content_of(store: ModelStore, digest: Digest, offset: int = 0) -> bytes:
    """The bytes of a blob from ``offset`` on."""
    return b"".join([chunk async for chunk in store.read_blob(digest, offset)])
