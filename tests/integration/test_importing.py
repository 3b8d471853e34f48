"""Importing files into a store that services use."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.importing import FilesystemBlobImporter
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError, StorageFullError

MIB = 1024 * 1024
CONTENT = os.urandom(20 * MIB + 1)
NAME = RelativePath.parse("model.gguf")


@pytest.fixture
async def store(tmp_path: Path) -> FilesystemModelStore:
    return await FilesystemModelStore.open(tmp_path / "models")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    path.chmod(0o640)
    return path


def left(root: Path) -> list[str]:
    return [path.name for path in (root / ".dmr" / "tmp").iterdir()]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("size", [0, 1, 4096, 8 * MIB, 20 * MIB + 1])
@pytest.mark.parametrize("disk", ["direct", "not direct", "direct, it says"])
async def test_a_copy_is_the_blob_read_only_and_the_source_stays(
    store: FilesystemModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str, size: int
) -> None:
    direct: list[bool] = []

    def watched(descriptor: int, data: memoryview, offset: int) -> int:
        direct.append(_is_direct(descriptor))
        return _pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    if disk == "not direct":
        monkeypatch.setattr(os, "O_DIRECT", 0, raising=False)
    elif disk == "direct, it says":
        monkeypatch.setattr(os, "pwrite", _no_direct_write)
    content = CONTENT[:size]
    os.truncate(source, size)
    told: list[int] = []

    async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
        file = await importing.take(source, NAME, told.append)
        assert not await store.has_blob(file.digest)
        await importing.publish()

    blob = store.blob_file(file.digest)
    if disk == "direct" and _goes_direct(tmp_path):
        # All but what does not fill a sector: the page cache is left to the models that are served.
        assert direct == [block % 4096 == 0 for block in _blocks_of(size)]
    assert file.digest == Digest.of(content)
    assert blob.read_bytes() == content
    assert (stat.S_IMODE(blob.stat().st_mode), stat.S_IMODE(source.stat().st_mode)) == (0o444, 0o640)  # noqa: ASYNC240 - a small file
    assert not source.samefile(blob)  # noqa: ASYNC240 - a small file
    assert left(tmp_path / "models") == []
    assert told == sorted(told)


async def test_a_link_is_the_file_itself_as_it_was(store: FilesystemModelStore, source: Path, tmp_path: Path) -> None:
    async with FilesystemBlobImporter(tmp_path / "models").begin(link=True) as importing:
        file = await importing.take(source, NAME)
        await importing.publish()
        assert importing.copied == ()

    assert store.blob_file(file.digest).samefile(source)
    assert stat.S_IMODE(source.stat().st_mode) == 0o640  # noqa: ASYNC240 - a small file
    assert left(tmp_path / "models") == []


async def test_what_cannot_be_linked_is_copied_and_said(
    store: FilesystemModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)

    async with FilesystemBlobImporter(tmp_path / "models").begin(link=True) as importing:
        file = await importing.take(source, NAME)
        await importing.publish()
        assert importing.copied == (source,)

    assert store.blob_file(file.digest).read_bytes() == CONTENT


async def test_a_link_that_somebody_tidied_away_is_made_again(
    store: FilesystemModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, made = os.link, []

    def swept(path: Path, target: Path, **options: Any) -> None:
        link(path, target, **options)
        made.append(target)
        if len(made) < 4:
            target.unlink()

    monkeypatch.setattr(os, "link", swept)
    async with FilesystemBlobImporter(tmp_path / "models").begin(link=True) as importing:
        taken = await importing.take(source, NAME)
        await importing.publish()
        assert importing.copied == ()
    assert store.blob_file(taken.digest).samefile(source)
    assert len(made) == 4


async def test_a_file_that_changes_before_it_is_linked_is_refused(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match="changed while it was read"):  # noqa: PT012 - the import is left in it
        async with FilesystemBlobImporter(tmp_path / "models").begin(link=True) as importing:
            file = await importing.take(source, NAME)
            append(source)
            await importing.publish()

    assert not await store.has_blob(file.digest)
    assert left(tmp_path / "models") == []


async def test_a_copy_stays_what_was_hashed_when_its_source_changes(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
        file = await importing.take(source, NAME)
        source.write_bytes(b"other")  # noqa: ASYNC240 - a small file
        await importing.publish()

    assert store.blob_file(file.digest).read_bytes() == CONTENT


async def test_cancelling_leaves_nothing(store: FilesystemModelStore, source: Path, tmp_path: Path) -> None:
    begun = asyncio.Event()
    del store

    async def run() -> None:
        async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
            await importing.take(source, NAME, lambda _: begun.set())
            await asyncio.Event().wait()

    task = asyncio.ensure_future(run())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert left(tmp_path / "models") == []
    assert not any(thread.name == "dmr-import-hash" for thread in threading.enumerate())


async def test_a_service_that_starts_meanwhile_clears_nothing_away(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
        file = await importing.take(source, NAME)
        await FilesystemModelStore.open(tmp_path / "models")  # a service that starts clears leftovers away
        await importing.publish()
        assert await store.has_blob(file.digest)


_pwrite = os.pwrite


def _is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


def _goes_direct(directory: Path) -> bool:
    """Whether this file system can, and has to copy at all."""
    try:
        descriptor = os.open(directory / "probe", os.O_RDWR | os.O_CREAT | getattr(os, "O_DIRECT", 0))
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, 0x40049409, descriptor)  # FICLONE: no copy is made where it works
    except OSError as exc:
        return exc.errno in {errno.EOPNOTSUPP, errno.ENOTTY}
    else:
        return False
    finally:
        os.close(descriptor)


def _blocks_of(size: int) -> list[int]:
    return [min(4 * MIB, size - start) for start in range(0, size, 4 * MIB)]


def _no_direct_write(descriptor: int, data: memoryview, offset: int) -> int:
    """A file system that lets a file be opened for direct writes, and then refuses them."""
    if _is_direct(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _pwrite(descriptor, data, offset)


async def test_a_disk_that_fills_up_under_the_copy_is_said_and_nothing_stays(
    store: FilesystemModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset + len(data) > 12 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
        with pytest.raises(StorageFullError, match="full"):
            await importing.take(source, NAME)

    assert left(tmp_path / "models") == []


async def test_a_source_that_cannot_be_read_is_what_the_error_names(
    store: FilesystemModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, preadv = source.stat().st_ino, os.preadv  # noqa: ASYNC240 - a small file

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(descriptor).st_ino == bad and offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    async with FilesystemBlobImporter(tmp_path / "models").begin() as importing:
        with pytest.raises(InvalidRequestError, match=r"cannot read '.*model.gguf': Input/output error"):
            await importing.take(source, NAME)


# --- what was hashed ahead ----------------------------------------------------------------------------


async def test_a_file_that_was_hashed_ahead_is_linked_without_being_read_again(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    told: list[int] = []

    def ahead(status: os.stat_result, report: Callable[[int], None], _: threading.Event) -> str | None:
        report(7)
        return Digest.of(CONTENT).hex if os.path.samestat(status, source.stat()) else None

    async with FilesystemBlobImporter(tmp_path / "models").begin(link=True, ahead=ahead) as importing:
        file = await importing.take(source, NAME, told.append)
        await importing.publish()

    assert store.blob_file(file.digest).samefile(source)
    assert told == [7]


async def test_a_file_that_changes_while_it_is_hashed_ahead_is_refused(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    def ahead(*_: object) -> str | None:
        append(source)
        return Digest.of(CONTENT).hex

    with pytest.raises(InvalidRequestError, match="changed while it was read"):
        async with FilesystemBlobImporter(tmp_path / "models").begin(link=True, ahead=ahead) as importing:
            await importing.take(source, NAME)

    assert not await store.has_blob(Digest.of(CONTENT))


async def test_a_copy_is_hashed_itself_whatever_was_hashed_ahead(
    store: FilesystemModelStore, source: Path, tmp_path: Path
) -> None:
    def ahead(*_: object) -> str | None:
        return Digest.of(b"something else").hex

    async with FilesystemBlobImporter(tmp_path / "models").begin(ahead=ahead) as importing:
        file = await importing.take(source, NAME)
        await importing.publish()

    assert file.digest == Digest.of(CONTENT)
    assert await store.has_blob(file.digest)
