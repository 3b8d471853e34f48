"""Models packaged from real files have the identities that the reference packager gave them.

The numbers were recorded from the reference (artifacts spec, §12): files of 2025-06-15T12:00:00Z, mode
0644, packaged at that same moment in UTC.
"""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_core.domain.digest import Digest
from dmr_core.services.packaging import (
    BuiltArtifact,
    ModelDirectory,
    PackageRequest,
    PackagingService,
    Schema,
    WeightsFile,
)

CREATED = datetime(2025, 6, 15, 12, tzinfo=UTC)
GGUF_DIGEST = "18f3d63e5a2bf7fe63cf497f31f2994e45be2666951a23d10c1826762a9bf13e"


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    seconds = int(CREATED.timestamp())
    os.utime(path, (seconds, seconds))
    return path


def age(directory: Path) -> None:
    for path in directory.rglob("*"):
        os.utime(path, (1, 1))


def tiny_gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"".join(
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 4),
            text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("general.file_type") + struct.pack("<II", 4, 15),
            text("llama.context_length") + struct.pack("<II", 4, 8192),
            text("tokenizer.chat_template") + struct.pack("<I", 8) + text("<|im_start|>"),
            text("blk.0.weight") + struct.pack("<IQQIQ", 2, 256, 2, 12, 0),
        )
    )
    return header + bytes(-len(header) % 32) + bytes(64)


def shard() -> bytes:
    header = (
        b'{"__metadata__":{"format":"pt","architecture":"LlamaForCausalLM"},'
        b'"a.weight":{"dtype":"BF16","shape":[16,8],"data_offsets":[0,256]}}'
    )
    return struct.pack("<Q", len(header)) + header + bytes(256)


async def build(request: PackageRequest) -> BuiltArtifact:
    return await PackagingService(FilesystemPackageSource()).build(request)


def identity(built: BuiltArtifact) -> tuple[str, int, str, int]:
    """Config digest and size, model ID and manifest size."""
    artifact = built.artifact
    config = artifact.manifest.config
    assert Digest.of(artifact.config_bytes) == config.digest
    assert decode_manifest(artifact.manifest_bytes) == artifact.manifest
    assert decode_config(artifact.config_bytes) == artifact.config
    return config.digest.hex, config.size, artifact.id.hex, len(artifact.manifest_bytes)


async def test_a_dduf(tmp_path: Path) -> None:
    path = put(tmp_path / "flux.dduf", b"PK")

    built = await build(PackageRequest(source=WeightsFile(path=path), created=CREATED))

    assert identity(built) == (
        "cd5452415bc2c395ecd7f1192354c67a53e35f64551a871d6ad16f20dbcbd653",
        286,
        "5eeacb5ce3cf67b981b5c450054dba367133993828e7c91f0a0c4ffde1b0e82f",
        654,
    )
    assert built.artifact.manifest.layers[0].digest.hex == (
        "fcab7fcc2b4cffd9bb45003bfc2e468a04ef6f77ca8200a7341f027631584d25"
    )


async def test_b_plain_gguf(tmp_path: Path) -> None:
    path = put(tmp_path / "tiny.gguf", tiny_gguf())

    built = await build(PackageRequest(source=WeightsFile(path=path), created=CREATED))

    assert identity(built) == (
        "961f7c08ee53f09dcdd7b80247fd766d5be654471a31d3341f3bf6c1eba50494",
        442,
        "a0d43607cfd6120161637105ba136c73932e0e5e637385c388ce6a3cfda49802",
        661,
    )
    layer, file = built.files[0]
    assert (GGUF_DIGEST, 320, path) == (layer.digest.hex, layer.size, file)


async def test_b_gguf_with_licence_and_context_size(tmp_path: Path) -> None:
    path, license_ = put(tmp_path / "tiny.gguf", tiny_gguf()), put(tmp_path / "license.txt", b"MIT")

    built = await build(
        PackageRequest(source=WeightsFile(path=path), licenses=(license_,), context_size=4096, created=CREATED)
    )

    assert identity(built) == (
        "aef5f5e3f2cbb618f273a5299e9dbd45ff85559aa26d267e5448a38c33100d8a",
        516,
        "a62ac0aa2945c8054cc605c851388739f6707fee03e42520e4d00993705e94a8",
        1067,
    )


async def test_b_gguf_with_licence_as_modelpack(tmp_path: Path) -> None:
    path, license_ = put(tmp_path / "tiny.gguf", tiny_gguf()), put(tmp_path / "license.txt", b"MIT")

    built = await build(
        PackageRequest(source=WeightsFile(path=path), licenses=(license_,), schema=Schema.CNCF, created=CREATED)
    )

    assert identity(built) == (
        "4cc4cded7ea2c992348cdf4e687af6b2df2a4de5f3d23751fe6abbbee2d63ac0",
        355,
        "bf3160ce63774cc2e75f405420a44b410fd740eec1e2cda15b06af8e903df90f",
        1132,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    put(root / "LICENSE", b"MIT")
    put(root / "chat_template.jinja", b"x")
    put(root / "config.json", b'{"max_position_embeddings": 2048}')
    put(root / "model-00001-of-00002.safetensors", shard())
    put(root / "model-00002-of-00002.safetensors", shard())
    put(root / "sub" / "config.json", b'{"a":1}')
    put(root / "tokenizer.json", b"{}")
    put(root / ".hidden", b"not for the public")
    return root


async def test_c_directory(directory: Path) -> None:
    built = await build(PackageRequest(source=ModelDirectory(path=directory), created=CREATED))

    assert identity(built) == (
        "6834ab330d808733128201ff2a747f9e49fbd00a18f0d8b87fa89db05c4ca01d",
        839,
        "741555c24d38c28ea502eff105968fae2c9edcaa7b15af0f2cabb67d2f085b26",
        3238,
    )
    assert [layer.filepath for layer in built.artifact.manifest.layers] == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "sub/config.json",
        "tokenizer.json",
    ]


async def test_the_time_zone_of_the_builder_leaves_no_trace(directory: Path) -> None:
    """Times are written in UTC, and a pinned epoch replaces every one of them."""
    age(directory)
    later = PackageRequest(source=ModelDirectory(path=directory), created=datetime(2030, 1, 1, tzinfo=UTC))

    built = await build(attrs.evolve(later, epoch=CREATED))

    assert built.artifact.id.hex == "741555c24d38c28ea502eff105968fae2c9edcaa7b15af0f2cabb67d2f085b26"
