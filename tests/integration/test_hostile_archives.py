"""Archives that somebody made to do harm, loaded into a real store: an error that says why, and nothing left that stays."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import live_leases
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_core.domain.archive import ARCHIVE_END, BLOCK, archive_directories, archive_header, archive_padding, blob_name
from dmr_core.domain.digest import Digest
from dmr_core.errors import MalformedArtifactError, StorageFullError
from dmr_core.services.loading import LoadingService

WEIGHTS = b"GGUF" * 300
CONFIG = json.dumps({"config": {"format": "gguf"}, "rootfs": {"type": "rootfs", "diff_ids": []}}).encode()


def described(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": str(Digest.of(data))}


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(CONFIG, "application/vnd.docker.ai.model.config.v0.1+json"),
        "layers": [described(WEIGHTS, "application/vnd.docker.ai.gguf.v3")],
    }
).encode()
NAME = blob_name(Digest.of(WEIGHTS))


def body(content: bytes) -> bytes:
    return content + archive_padding(len(content))


def file(name: str, content: bytes) -> bytes:
    return archive_header(name, len(content)) + body(content)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info.tobuf(format=tarfile.GNU_FORMAT)


def pax(**records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        lines += str(length).encode() + record
    return header("pax", len(lines), tarfile.XHDTYPE) + body(lines)


def long_name(name: bytes) -> bytes:
    return header("././@LongLink", len(name), tarfile.GNUTYPE_LONGNAME) + body(name)


REST = file(blob_name(Digest.of(CONFIG)), CONFIG) + file("manifest.json", MANIFEST)
WHOLE = archive_directories() + file(NAME, WEIGHTS) + REST + ARCHIVE_END
LYING = bytes(len(WEIGHTS))

HARMFUL = {
    "two manifests": file(NAME, WEIGHTS) + REST + file("manifest.json", MANIFEST) + ARCHIVE_END,
    "a link for a blob": header(NAME, kind=tarfile.SYMTYPE, target="/etc/passwd") + REST + ARCHIVE_END,
    "a hard link for a blob": header(NAME, kind=tarfile.LNKTYPE, target="/etc/passwd") + REST + ARCHIVE_END,
    "a device for a blob": header(NAME, kind=tarfile.CHRTYPE) + REST + ARCHIVE_END,
    "a link for the manifest": file(NAME, WEIGHTS)
    + header("manifest.json", kind=tarfile.SYMTYPE, target="/etc/passwd")
    + ARCHIVE_END,
    "a sparse blob of GNU": header(NAME, len(WEIGHTS), tarfile.GNUTYPE_SPARSE) + body(WEIGHTS) + REST + ARCHIVE_END,
    "a sparse blob of pax": pax(GNU__sparse__major="1", GNU__sparse__realsize="99999999999") + WHOLE,
    "a pax size too long to be one": pax(size="9" * 5000) + WHOLE,
    "a pax size that is absurd": pax(size="9" * 19) + file(NAME, WEIGHTS) + REST + ARCHIVE_END,
    "a pax size that is too small": pax(size="5") + file(NAME, WEIGHTS) + REST + ARCHIVE_END,
    "a pax path that climbs": pax(path="blobs/sha256/../../../x") + file(NAME, WEIGHTS) + REST + ARCHIVE_END,
    "a pax path of another blob": pax(path=NAME) + file("x", LYING) + REST + ARCHIVE_END,
    "a pax header that claims gigabytes": header("pax", 8 << 30, tarfile.XHDTYPE) + WHOLE,
    "a long name that is absolute": long_name(b"/etc/cron.d/x\0") + file(NAME, WEIGHTS) + REST + ARCHIVE_END,
    "a long name that is endless": long_name(b"d/" * 3000) + file(NAME, WEIGHTS) + REST + ARCHIVE_END,
    "a long name that claims gigabytes": header("x", 8 << 30, tarfile.GNUTYPE_LONGNAME) + WHOLE,
    "a size below zero": header(NAME, -1) + REST + ARCHIVE_END,
    "a size beyond all disks": header(NAME, 1 << 80) + REST + ARCHIVE_END,
    "a manifest after the end": file(NAME, WEIGHTS) + ARCHIVE_END + REST,
    "a blob that is another": file(NAME, LYING) + REST + ARCHIVE_END,
    "a blob in the place of a directory": file("blobs/sha256", b"") + file(f"{NAME}/x", WEIGHTS) + REST + ARCHIVE_END,
    "a manifest that is none": file(NAME, WEIGHTS) + file("manifest.json", b"[" * 100_000) + ARCHIVE_END,
    "nothing": ARCHIVE_END,
    "no archive": b"\x1f\x8b" + bytes(range(256)) * 8,
}


@pytest.fixture
async def store(tmp_path: Path) -> FilesystemModelStore:
    return await FilesystemModelStore.open(tmp_path / "store")


async def load(store: FilesystemModelStore, data: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    await LoadingService(store, decode_manifest=decode_manifest, decode_config=decode_config).load(chunks())


async def assert_clean(store: FilesystemModelStore, root: Path) -> None:
    """No model, nobody's lease, nothing in the way; and what is left goes with the next collection."""
    assert store.models() == ()
    assert list(live_leases(StoreLayout(root))) == []
    assert list((root / ".dmr" / "tmp").iterdir()) == []
    await FilesystemStoreMaintenance(root).collect(partials_older_than=0.0, everything=True)
    assert list((root / "blobs" / "sha256").iterdir()) == []
    assert list((root / ".dmr" / "ingest").iterdir()) == []


async def test_an_archive_without_harm_is_loaded(store: FilesystemModelStore) -> None:
    """Else every error below could be for another reason."""
    await load(store, WHOLE)

    assert [model.id for model in store.models()] == [Digest.of(MANIFEST)]


@pytest.mark.parametrize("harm", HARMFUL)
async def test_harm_is_refused_and_leaves_nothing_that_stays(
    store: FilesystemModelStore, tmp_path: Path, harm: str
) -> None:
    with pytest.raises(MalformedArtifactError) as caught:
        await load(store, HARMFUL[harm])

    assert len(caught.value.message) < 1000
    assert os.listdir(tmp_path) == ["store"]
    await assert_clean(store, tmp_path / "store")


async def test_an_archive_cut_off_at_any_block_leaves_nothing_that_stays(
    store: FilesystemModelStore, tmp_path: Path
) -> None:
    for end in range(0, len(WHOLE) - len(ARCHIVE_END) + 1, BLOCK):
        with pytest.raises(MalformedArtifactError):
            await load(store, WHOLE[:end])
        await assert_clean(store, tmp_path / "store")


@pytest.mark.parametrize("size", [1 << 43, 1 << 61], ids=["of 8 TiB", "larger than files can be"])
async def test_a_blob_larger_than_the_disk_is_refused_before_its_bytes_come(
    store: FilesystemModelStore, tmp_path: Path, size: int
) -> None:
    """The archive may be right, and the disk too small: so that is what is said."""
    if shutil.disk_usage(tmp_path).free > 1 << 43:
        pytest.skip("the disk has room for it")
    with pytest.raises(StorageFullError, match="free"):
        await load(store, pax(size=str(size)) + header(NAME) + bytes(1 << 20))

    await assert_clean(store, tmp_path / "store")


async def test_a_blob_that_comes_twice_is_stored_once(store: FilesystemModelStore, tmp_path: Path) -> None:
    await load(store, file(NAME, WEIGHTS) + file(NAME, WEIGHTS) + REST + ARCHIVE_END)

    assert (tmp_path / "store" / NAME).read_bytes() == WEIGHTS


async def test_a_second_blob_of_a_name_cannot_replace_the_first(store: FilesystemModelStore, tmp_path: Path) -> None:
    with pytest.raises(MalformedArtifactError, match="does not hold what its name says"):
        await load(store, file(NAME, WEIGHTS) + file(NAME, LYING + b"longer") + REST + ARCHIVE_END)
    await load(store, file(NAME, WEIGHTS) + file(NAME, LYING) + REST + ARCHIVE_END)

    assert (tmp_path / "store" / NAME).read_bytes() == WEIGHTS
