from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_core.domain.artifact import (
    ANNOTATION_METADATA,
    CONFIG_MODELPACK,
    CONFIG_V01,
    CONFIG_V02,
    MODELPACK_ARTIFACT_TYPE,
    Artifact,
    Descriptor,
    Format,
    LayerType,
    Manifest,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_manifest, go_json, go_time, go_time_ns
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import SourceFile, WeightsMetadata
from dmr_core.services.packaging import (
    MAX_CONTEXT_SIZE,
    ModelDirectory,
    PackageRequest,
    PackagingService,
    Schema,
    WeightsFile,
)
from dmr_core.testing.fakes.package_source import InMemoryPackageSource

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
ROOT = Path("/models")
SAYS = WeightsMetadata(
    parameters="1B",
    quantization="MOSTLY_Q4_K_M",
    architecture="llama",
    size="1GiB",
    context_size=2048,
    raw={"general.architecture": "llama"},
)


@pytest.fixture
def source() -> InMemoryPackageSource:
    files = InMemoryPackageSource(SAYS)
    for name in ("m.gguf", "s-00001-of-00002.gguf", "s-00002-of-00002.gguf", "mmproj.gguf"):
        files.put(ROOT / name, b"GGUF" + name.encode())
    files.put(ROOT / "flux.dduf", b"PK" * 750)
    files.put(ROOT / "LICENSE", b"MIT")
    files.put(ROOT / "other" / "LICENSE", b"Apache")
    files.put(ROOT / "t.jinja", b"{{ messages }}")
    files.put(ROOT / "whole.safetensors", bytes(8))
    return files


async def build(source: InMemoryPackageSource, request: PackageRequest) -> Artifact:
    return (await PackagingService(source).build(request)).artifact


def gguf(name: str = "m.gguf") -> PackageRequest:
    return PackageRequest(source=WeightsFile(path=ROOT / name), created=NOW)


def directory(source: InMemoryPackageSource, **files: bytes) -> PackageRequest:
    for name, content in files.items():
        source.put(ROOT / "dir" / name.replace("__", "."), content)
    return PackageRequest(source=ModelDirectory(path=ROOT / "dir"), created=NOW)


async def test_a_gguf_is_a_v01_artifact_of_one_layer(source: InMemoryPackageSource) -> None:
    built = await PackagingService(source).build(gguf())

    manifest, config = built.artifact.manifest, built.artifact.config
    assert manifest.config.media_type == CONFIG_V01
    assert [(layer.media_type, layer.filepath) for layer in manifest.layers] == [(LayerType.GGUF, "m.gguf")]
    assert built.files == ((manifest.layers[0], ROOT / "m.gguf"),)
    assert config.gguf == SAYS.raw
    assert (config.format, config.context_size, config.created) == ("gguf", 2048, "2025-06-15T12:00:00Z")
    assert config.diff_ids == (str(manifest.layers[0].digest),)


async def test_layers_come_in_the_order_weights_licences_template_projector(source: InMemoryPackageSource) -> None:
    request = attrs.evolve(
        gguf("s-00002-of-00002.gguf"),
        licenses=(ROOT / "other" / "LICENSE", ROOT / "LICENSE"),
        chat_template=ROOT / "t.jinja",
        mmproj=ROOT / "mmproj.gguf",
    )

    built = await PackagingService(source).build(request)

    assert [layer.media_type for layer in built.artifact.manifest.layers] == [
        LayerType.GGUF,
        LayerType.GGUF,
        LayerType.LICENSE,
        LayerType.LICENSE,
        LayerType.CHAT_TEMPLATE,
        LayerType.MMPROJ,
    ]
    assert [path.name for _, path in built.files[:2]] == ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]
    assert [path.parent.name for _, path in built.files[2:4]] == ["other", "models"]


async def test_a_safetensors_file_is_a_v01_artifact(source: InMemoryPackageSource) -> None:
    artifact = await build(source, gguf("whole.safetensors"))

    assert artifact.manifest.config.media_type == CONFIG_V01
    assert artifact.config.safetensors == SAYS.raw


async def test_a_dduf_says_what_it_is_without_its_header_being_read(source: InMemoryPackageSource) -> None:
    artifact = await build(source, gguf("flux.dduf"))

    config = artifact.config
    assert artifact.manifest.layers[0].media_type == LayerType.DDUF
    assert (config.architecture, config.size) == ("diffusers", "1.50kB")
    assert config.diffusers == {"layout": "dduf", "dduf_file": "flux.dduf"}


async def test_every_file_of_a_directory_is_a_layer_of_a_v02_artifact(source: InMemoryPackageSource) -> None:
    request = directory(source, b__safetensors=bytes(8), a__py=b"x", LICENSE=b"MIT", c__gguf=b"GGUF", __hidden=b"h")

    artifact = await build(source, request)

    assert artifact.manifest.config.media_type == CONFIG_V02
    assert [(layer.filepath, layer.media_type) for layer in artifact.manifest.layers] == [
        ("LICENSE", LayerType.LICENSE),
        ("a.py", LayerType.MODEL_FILE),
        ("b.safetensors", LayerType.SAFETENSORS),
        ("c.gguf", LayerType.GGUF),
    ]
    assert artifact.config.format == "safetensors"


async def test_identical_files_stay_two_layers(source: InMemoryPackageSource) -> None:
    request = directory(source, a__safetensors=bytes(8), b__safetensors=bytes(8))

    built = await PackagingService(source).build(request)

    assert built.artifact.manifest.layers[0].digest == built.artifact.manifest.layers[1].digest
    assert [path.name for _, path in built.files] == ["a.safetensors", "b.safetensors"]


async def test_a_modelpack_says_what_its_schema_can_say(source: InMemoryPackageSource) -> None:
    artifact = await build(source, attrs.evolve(gguf(), schema=Schema.CNCF, licenses=(ROOT / "LICENSE",)))

    assert artifact.manifest.artifact_type == MODELPACK_ARTIFACT_TYPE
    assert artifact.manifest.config.media_type == CONFIG_MODELPACK
    assert [layer.media_type for layer in artifact.manifest.layers] == [LayerType.PACK_WEIGHT, LayerType.PACK_DOC]
    assert (artifact.config.size, artifact.config.context_size, dict(artifact.config.gguf)) == ("1B", None, {})
    assert json.loads(artifact.config_bytes)["config"]["paramSize"] == "1B"


async def test_a_context_size_asked_for_replaces_the_one_of_the_header(source: InMemoryPackageSource) -> None:
    artifact = await build(source, attrs.evolve(gguf(), context_size=MAX_CONTEXT_SIZE))

    assert artifact.config.context_size == MAX_CONTEXT_SIZE


@pytest.mark.parametrize("size", [0, -1, MAX_CONTEXT_SIZE + 1])
async def test_a_context_size_out_of_range_is_refused(source: InMemoryPackageSource, size: int) -> None:
    with pytest.raises(InvalidRequestError, match="out of range: give a number from 1 to 2147483647"):
        await build(source, attrs.evolve(gguf(), context_size=size))


async def test_modelpack_has_no_place_for_a_context_size(source: InMemoryPackageSource) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await build(source, attrs.evolve(gguf(), context_size=1, schema=Schema.CNCF))

    assert caught.value.message == (
        "--context-size is not supported with --format cncf: "
        "the CNCF ModelPack specification does not define a context size field"
    )
    assert caught.value.param == "context_size"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": WeightsFile(path=Path("m.gguf"))}, "GGUF path must be absolute. 'm.gguf' is not"),
        ({"source": WeightsFile(path=Path("m.dduf"))}, "DDUF path must be absolute"),
        ({"source": WeightsFile(path=Path("m.bin"))}, "WEIGHTS path must be absolute"),
        ({"source": ModelDirectory(path=Path("dir"))}, "Safetensors directory path must be absolute"),
        ({"licenses": (Path("LICENSE"),)}, "license path must be absolute"),
        ({"chat_template": Path("t.jinja")}, "chat template path must be absolute"),
        ({"mmproj": Path("p.gguf")}, "mmproj path must be absolute"),
        ({"source": WeightsFile(path=ROOT / "m.bin")}, "does not end in one of .gguf, .safetensors or .dduf"),
        ({"source": WeightsFile(path=ROOT / "m.gguf", expected=Format.DDUF)}, "does not end in .dduf"),
        ({"source": WeightsFile(path=ROOT / "n.gguf")}, "n.gguf"),
        ({"licenses": (ROOT / "no",)}, "'/models/no'"),
        ({"source": ModelDirectory(path=ROOT / "nowhere")}, "nowhere"),
        ({"source": ModelDirectory(path=ROOT / "other")}, "no weight files .* found in directory: '/models/other'"),
    ],
)
async def test_bad_paths_are_refused_by_name(
    source: InMemoryPackageSource, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        await build(source, attrs.evolve(gguf(), **change))


async def test_an_incomplete_shard_set_in_a_directory_is_refused(source: InMemoryPackageSource) -> None:
    request = directory(source, **{"m-00001-of-00003.gguf": b"GGUF", "m-00003-of-00003.gguf": b"GGUF"})

    with pytest.raises(InvalidRequestError, match=r"found 2 of 3 shards .*'m-00002-of-00003.gguf' is missing"):
        await build(source, request)


async def test_what_only_looks_like_a_shard_is_let_be(source: InMemoryPackageSource) -> None:
    request = directory(
        source,
        **{"m.gguf": b"GGUF", "state-00001-of-00002.bin": b"", "m-00009-of-00002.gguf": b"GGUF"},
    )

    assert len((await build(source, request)).manifest.layers) == 3


async def test_two_files_on_one_path_are_refused_where_paths_matter(source: InMemoryPackageSource) -> None:
    licenses = (ROOT / "LICENSE", ROOT / "other" / "LICENSE")
    in_directory = attrs.evolve(directory(source, m__gguf=b"GGUF"), licenses=licenses)
    as_modelpack = attrs.evolve(gguf(), licenses=licenses, schema=Schema.CNCF)

    for request in (in_directory, as_modelpack):
        with pytest.raises(InvalidRequestError, match=r"would both become 'LICENSE'.*rename one"):
            await build(source, request)
    assert len((await build(source, attrs.evolve(gguf(), licenses=licenses))).manifest.layers) == 3


async def test_a_malformed_file_is_not_packaged_unless_allowed(source: InMemoryPackageSource) -> None:
    source.put(ROOT / "m.gguf", b"<html>")

    with pytest.raises(MalformedArtifactError, match=r"'/models/m.gguf' at byte 0.*; nothing was packaged: download"):
        await build(source, gguf())

    artifact = await build(source, attrs.evolve(gguf(), allow_malformed=True))
    assert json.loads(artifact.config_bytes)["config"] == {"format": "gguf"}


async def test_an_epoch_pins_every_time(source: InMemoryPackageSource) -> None:
    source.put(ROOT / "m.gguf", b"GGUF", mtime_ns=1)
    pinned = attrs.evolve(gguf(), epoch=datetime(1980, 1, 1, tzinfo=UTC))
    one = await build(source, pinned)
    source.put(ROOT / "m.gguf", b"GGUF", mtime_ns=2)
    two = await build(source, attrs.evolve(pinned, created=NOW + timedelta(days=1)))

    assert one.id == two.id
    assert one.config.created == "1980-01-01T00:00:00Z"
    assert file_metadata(one)["mtime"] == "1980-01-01T00:00:00Z"


async def test_file_metadata_is_that_of_the_file(source: InMemoryPackageSource) -> None:
    source.put(ROOT / "m.gguf", b"GGUF", mode=0o755, mtime_ns=1_750_000_000_120_000_000)

    assert file_metadata(await build(source, gguf())) == {
        "name": "m.gguf",
        "mode": 0o755,
        "uid": 0,
        "gid": 0,
        "size": 4,
        "mtime": "2025-06-15T15:06:40.12Z",
        "typeflag": 0,
    }


async def test_a_time_no_calendar_has_is_refused(source: InMemoryPackageSource) -> None:
    source.put(ROOT / "m.gguf", b"GGUF", mtime_ns=10**21)

    with pytest.raises(InvalidRequestError, match=r"time of '/models/m.gguf' lies outside"):
        await build(source, gguf())


def file_metadata(artifact: Artifact) -> dict[str, object]:
    text = artifact.manifest.layers[0].annotations[ANNOTATION_METADATA]
    metadata: dict[str, object] = json.loads(text)
    return metadata


async def test_hashing_is_reported_file_by_file(source: InMemoryPackageSource) -> None:
    size = 3 * 1024 * 1024
    source.put(ROOT / "m.gguf", b"GGUF".ljust(size))
    told: list[tuple[str, int, int | None]] = []

    await PackagingService(source).build(
        attrs.evolve(gguf(), licenses=(ROOT / "LICENSE",)),
        lambda path, done, total: told.append((path.name, done, total)),
    )

    assert [line for line in told if line[0] == "m.gguf"] == [
        ("m.gguf", 1024 * 1024, None),
        ("m.gguf", 2 * 1024 * 1024, None),
        ("m.gguf", size, None),
        ("m.gguf", size, size),
    ]
    assert told[-1] == ("LICENSE", 3, 3)


class Stuck(InMemoryPackageSource):
    """Never finishes hashing; one file fails."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.started = asyncio.Event()

    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        if name.text == "LICENSE":
            raise InvalidRequestError("unreadable")
        self.running += 1
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        raise AssertionError


async def test_one_failure_ends_all_hashing() -> None:
    source = Stuck()
    source.put(ROOT / "m.gguf", b"GGUF")

    with pytest.raises(InvalidRequestError, match="unreadable"):
        await build(source, attrs.evolve(gguf(), licenses=(ROOT / "LICENSE",)))
    assert source.running == 0


async def test_cancelling_ends_all_hashing() -> None:
    source = Stuck()
    source.put(ROOT / "m.gguf", b"GGUF")
    task = asyncio.ensure_future(build(source, gguf()))
    await source.started.wait()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.running == 0


def test_annotations_of_a_manifest_are_written_last() -> None:
    manifest = Manifest(
        config=Descriptor(media_type="x", digest=Digest.of(b""), size=0), layers=(), annotations={"b": "2", "a": "1"}
    )

    assert encode_manifest(manifest).endswith(b'"layers":[],"annotations":{"a":"1","b":"2"}}')


# --- the words of Go ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (10 * 10**9, "1970-01-01T00:00:10Z"),
        (-62135596800 * 10**9, "0001-01-01T00:00:00Z"),
    ],
)
def test_times_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert go_time_ns(nanoseconds) == text


def test_moments_are_written_in_utc() -> None:
    assert go_time(datetime(2025, 6, 15, 14, 0, 0, 250000, timezone(timedelta(hours=2)))) == "2025-06-15T12:00:00.25Z"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<a&b>", '"\\u003ca\\u0026b\\u003e"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("é\x7f\ufffd", '"é\x7f\ufffd"'),
        ("\udcff", '"\\ufffd"'),
        ('\n"\\\x01', '"\\n\\"\\\\\\u0001"'),
    ],
)
def test_strings_are_written_as_go_does(value: str, text: str) -> None:
    assert go_json(value) == text
