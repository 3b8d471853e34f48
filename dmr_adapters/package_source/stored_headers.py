"""Headers of the weights of stored models, read off their blobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from dmr_adapters.package_source.gguf import read_gguf
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.model import Model
from dmr_core.errors import UnsupportedFormatError
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.weights_header import HeaderValue, WeightsHeaders

__all__ = ["StoredWeightsHeaders"]

_GGUF = (LayerType.GGUF, LayerType.PACK_WEIGHT_GGUF)


class StoredWeightsHeaders(WeightsHeaders):
    """Reads GGUF. What safetensors say is in the model's config already: their headers list tensors."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def read(self, model: Model) -> Mapping[str, HeaderValue]:
        digests = [layer.digest for layer in model.manifest.layers if layer.media_type in _GGUF]
        if not digests:
            raise UnsupportedFormatError(f"model {model.name!r} has no GGUF weights")
        async with self._store.lease(digests):
            return await asyncio.to_thread(_read, [self._store.blob_file(digest) for digest in digests])


def _read(paths: list[Path]) -> Mapping[str, HeaderValue]:
    values: dict[str, HeaderValue] = {}
    parameters = 0
    for path in paths:  # several are the shards of one model
        header = read_gguf(path)
        values.update(header.values)
        parameters += header.parameters
    return {**values, "general.parameter_count": parameters}
