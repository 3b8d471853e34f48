"""Headers of stored weights, read off their blobs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.package_source.stored_headers import StoredWeightsHeaders
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.model import Model
from dmr_core.errors import MalformedArtifactError, UnsupportedFormatError
from dmr_core.testing.contracts.samples import build_artifact, layer_of, put_blob


async def put_model(store: FilesystemModelStore, content: bytes, media_type: LayerType = LayerType.GGUF) -> Model:
    await put_blob(store, content)
    return await store.add(build_artifact([layer_of(content, media_type)]))


GGUF = Path(str(files("dmr_cli.demo") / "model" / "demo.gguf")).read_bytes()


async def test_a_gguf_says_what_it_is(tmp_path: Path) -> None:
    store = await FilesystemModelStore.open(tmp_path)
    model = await put_model(store, GGUF)
    found = await StoredWeightsHeaders(store).read(model)
    assert (found["general.architecture"], found["llama.context_length"]) == ("llama", 1024)
    assert found["general.parameter_count"] == 803_968


async def test_damage_and_other_formats_are_told_apart(tmp_path: Path) -> None:
    store = await FilesystemModelStore.open(tmp_path)
    damaged = await put_model(store, b"nonsense" * 10)
    with pytest.raises(MalformedArtifactError):
        await StoredWeightsHeaders(store).read(damaged)
    other = await put_model(store, b"weights", LayerType.SAFETENSORS)
    with pytest.raises(UnsupportedFormatError):
        await StoredWeightsHeaders(store).read(other)
