"""LoRA adapters that a model was packaged with: where they lie in its bundle, and how they reach llama.cpp."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import attrs
import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_backends_llamacpp.arguments import server_arguments
from dmr_core.domain.artifact import CONFIG_V01, CONFIG_V02, LayerType, ModelConfig
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob


async def unpacked(
    root: Path, *files: tuple[str, bytes, str | None], media_type: str = CONFIG_V01
) -> tuple[Model, Bundle]:
    store = await FilesystemModelStore.open(root)
    for _, data, _ in files:
        await put_blob(store, data)
    layers = [layer_of(data, kind, path) for kind, data, path in files]
    model = await store.add(build_artifact(layers, ModelConfig(format="gguf"), media_type))
    bundle = await store.bundle(model.id)
    assert bundle == await store.bundle(model.id)
    return model, bundle


def paths_given(model: Model, bundle: Bundle) -> list[str]:
    words = server_arguments(LaunchRequest(model=model, bundle=bundle, alias="x"), (), Path("/s"))
    return [value for word, value in pairwise(words) if word == "--lora"]


async def test_adapters_without_places_get_a_directory_of_their_own(tmp_path: Path) -> None:
    """Beside the model, the reference would take one for it: its first GGUF by name is the model."""
    model, bundle = await unpacked(
        tmp_path,
        (LayerType.GGUF, b"GGUF", None),
        (LayerType.LORA, b"first", "a.gguf"),
        (LayerType.LORA, b"second", None),
    )
    assert [path.read_bytes() for path in bundle.loras] == [b"first", b"second"]
    assert sorted(path.name for path in bundle.directory.glob("*.gguf")) == ["model.gguf"]
    assert paths_given(model, bundle) == [str(path) for path in bundle.loras]


async def test_adapters_with_places_stay_there(tmp_path: Path) -> None:
    model, bundle = await unpacked(
        tmp_path,
        (LayerType.GGUF, b"GGUF", "model.gguf"),
        (LayerType.LORA, b"adapter", "adapters/polite.gguf"),
        media_type=CONFIG_V02,
    )
    assert bundle.loras == (bundle.directory / "adapters" / "polite.gguf",)
    assert bundle.gguf == bundle.directory / "model.gguf"
    assert paths_given(model, bundle) == [str(bundle.loras[0])]


async def test_an_adapter_whose_path_llama_server_would_split_is_refused(tmp_path: Path) -> None:
    model, bundle = await unpacked(tmp_path, (LayerType.GGUF, b"GGUF", None))
    with pytest.raises(UnsupportedFormatError, match="has a comma in it"):
        paths_given(model, attrs.evolve(bundle, loras=(Path("/models/a,b.gguf"),)))
