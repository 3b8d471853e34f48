from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.artifact import LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.errors import (
    InvalidReferenceError,
    InvalidRequestError,
    MalformedArtifactError,
    ModelNotFoundError,
    NotFoundError,
)
from dmr_core.ports.package_source import WeightsMetadata
from dmr_core.services.catalog import CatalogService
from dmr_core.services.creating import BufferedBlobIntake, CreatingService, NewLayer
from dmr_core.services.repackaging import RepackagingService
from dmr_core.testing.contracts.blob_intake import chunks_of
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.package_source import InMemoryPackageSource

GGUF = b"GGUF" + b"\0" * 60
WORDS = NewLayer(media_type=LayerType.MODEL_FILE, name="words.json", content=b"{}")
OTHER = NewLayer(media_type=LayerType.MODEL_FILE, name="words.json", content=b"[]")


class Made:
    """The service over fakes."""

    def __init__(self) -> None:
        self.store = InMemoryModelStore()
        self.source = InMemoryPackageSource(WeightsMetadata(architecture="llama", raw={"a.b": "1"}))
        catalog = CatalogService(self.store, ReferencePolicy())
        self.intake = BufferedBlobIntake(self.store)
        repackaging = RepackagingService(
            store=self.store, catalog=catalog, decode_manifest=decode_manifest, decode_config=decode_config
        )
        self.service = CreatingService(
            store=self.store,
            catalog=catalog,
            repackaging=repackaging,
            source=self.source,
            intake=self.intake,
            clock=FakeClock(),
        )

    async def blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        assert await self.service.take(digest, chunks_of(content)) == len(content)
        self.source.put(self.store.blob_file(digest), content)
        return digest


@pytest.fixture
def made() -> Made:
    return Made()


def layers(model: Model) -> list[tuple[str, str | None]]:
    return [(layer.media_type, layer.filepath) for layer in model.manifest.layers]


async def test_weights_become_a_model_with_layers_of_its_own(made: Made) -> None:
    digest = await made.blob(GGUF)
    model = await made.service.from_blobs({"dir/m.gguf": digest}, "my/own", (WORDS,))
    assert model.tags == ("docker.io/my/own:latest",)
    assert layers(model) == [(LayerType.GGUF, "m.gguf"), (LayerType.MODEL_FILE, "words.json")]
    assert model.manifest.layers[0].digest == digest
    assert (model.config.architecture, model.config.gguf) == ("llama", {"a.b": "1"})
    assert not made.store.leased


async def test_a_variant_shares_everything_but_what_is_its_own(made: Made) -> None:
    first = await made.service.from_blobs({"m.gguf": await made.blob(GGUF)}, "my/own", (WORDS,))
    second = await made.service.from_model("my/own", "my/other", (OTHER,))
    assert first.manifest.layers[0] == second.manifest.layers[0]
    assert [layer.digest for layer in second.manifest.layers[1:]] == [Digest.of(b"[]")]
    again = await made.service.from_model("my/own", "my/again", (WORDS,))
    assert again.id == first.id
    with pytest.raises(ModelNotFoundError):
        await made.service.from_model("nope", "x", ())
    with pytest.raises(InvalidReferenceError):
        await made.service.from_model("my/own", "A B", ())


async def test_what_was_begun_before_is_begun_anew(made: Made) -> None:
    await made.service.from_blobs({"m.gguf": await made.blob(GGUF)}, "my/own", ())
    made.store.partials[Digest.of(b"{}")] = bytearray(b"x")
    variant = await made.service.from_model("my/own", "my/other", (WORDS,))
    assert variant.manifest.layers[-1].digest == Digest.of(b"{}")


async def test_shards_a_projector_and_adapters(made: Made) -> None:
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"]
    blobs = {name: await made.blob(GGUF + name.encode()) for name in names}
    adapter = await made.blob(GGUF + b"adapter")
    model = await made.service.from_blobs(blobs, "my/own", (), {"whatever.gguf": adapter})
    assert [kind for kind, _ in layers(model)] == [
        LayerType.GGUF,
        LayerType.GGUF,
        LayerType.MMPROJ,
        LayerType.LORA,
    ]


async def test_a_directory_is_laid_out_as_it_was(made: Made) -> None:
    blobs = {
        "model.safetensors": await made.blob(b"\2\0\0\0\0\0\0\0{}"),
        "config.json": await made.blob(b"{}"),
    }
    model = await made.service.from_blobs(blobs, "my/own", ())
    assert layers(model) == [(LayerType.MODEL_FILE, "config.json"), (LayerType.SAFETENSORS, "model.safetensors")]
    with pytest.raises(InvalidRequestError, match="adapters"):
        await made.service.from_blobs(blobs, "my/own", (), {"a.gguf": await made.blob(GGUF)})


async def test_what_makes_no_model_is_refused(made: Made) -> None:
    one, two = await made.blob(GGUF), await made.blob(GGUF + b"2")
    for blobs, error in (
        ({"m.gguf": Digest("0" * 64)}, NotFoundError),
        ({"a.gguf": one, "b.gguf": two}, InvalidRequestError),
        ({"m-00001-of-00002.gguf": one}, InvalidRequestError),
        ({"m-00003-of-00002.gguf": one}, InvalidRequestError),
        ({"m-00001-of-00002.gguf": one, "x-00002-of-00002.gguf": two}, InvalidRequestError),
        ({"words.txt": one}, InvalidRequestError),
        ({"../m.gguf": one}, InvalidRequestError),
        ({"m.gguf": await made.blob(b"nothing")}, MalformedArtifactError),
    ):
        with pytest.raises(error):
            await made.service.from_blobs(blobs, "my/own", ())
    with pytest.raises(InvalidReferenceError):
        await made.service.from_blobs({"m.gguf": one}, "A B", ())
    assert made.store.models() == ()
    assert not made.store.leased


async def test_a_name_that_nobody_sent_is_no_file(made: Made) -> None:
    from datetime import UTC, datetime

    from dmr_core.domain.paths import RelativePath
    from dmr_core.services.creating import StoredBlobs

    blobs = StoredBlobs(made.store, made.source, {}, datetime.fromtimestamp(0, UTC))
    with pytest.raises(InvalidRequestError, match="no such file"):
        await blobs.describe(Path("/x"), RelativePath.parse("x"))
