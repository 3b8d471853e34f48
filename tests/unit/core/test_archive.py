from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmr_core.domain.archive import (
    ARCHIVE_END,
    BLOCK,
    MANIFEST_NAME,
    archive_directories,
    archive_header,
    archive_padding,
    archive_size,
    blob_name,
    read_archive,
)
from dmr_core.domain.artifact import Descriptor, Manifest
from dmr_core.domain.digest import Digest
from dmr_core.errors import MalformedArtifactError

HEX = "ab" * 32


async def pieces(data: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        yield b""


async def read_all(data: bytes, size: int = 100) -> list[tuple[str, bytes]]:
    found = []
    async for entry in read_archive(pieces(data, size)):
        content = b"".join([chunk async for chunk in entry.chunks])
        assert len(content) == entry.size
        found.append((entry.name.text, content))
    return found


async def names(data: bytes) -> list[str]:
    """The names alone: contents are left for the reader to skip."""
    return [entry.name.text async for entry in read_archive(pieces(data))]


def file(name: str, content: bytes) -> bytes:
    return archive_header(name, len(content)) + content + archive_padding(len(content))


def tar(*members: tuple[str, bytes], fmt: int = tarfile.PAX_FORMAT, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def header(name: str = "x", *, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(format=tarfile.GNU_FORMAT)


def block(content: bytes) -> bytes:
    return content + archive_padding(len(content))


# --- writing ------------------------------------------------------------------------------------------


def test_an_archive_is_what_tar_reads() -> None:
    data = archive_directories() + file(f"blobs/sha256/{HEX}", b"weights") + file(MANIFEST_NAME, b"{}") + ARCHIVE_END

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(info.name, info.type, info.mode, info.mtime, info.size) for info in archive]
    assert members == [
        ("blobs", tarfile.DIRTYPE, 0o755, 0, 0),
        ("blobs/sha256", tarfile.DIRTYPE, 0o755, 0, 0),
        (f"blobs/sha256/{HEX}", tarfile.REGTYPE, 0o666, 0, 7),
        ("manifest.json", tarfile.REGTYPE, 0o666, 0, 2),
    ]


def test_a_header_is_one_plain_ustar_block() -> None:
    data = archive_header("manifest.json", 5)

    assert len(data) == BLOCK
    assert data[257:265] == b"ustar\x0000"


def test_a_size_that_ustar_cannot_say_is_said_by_a_pax_record() -> None:
    data = archive_header("big", 50 * 2**30)

    assert len(data) == 3 * BLOCK
    assert b" size=53687091200\n" in data


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_padding_fills_the_block(size: int) -> None:
    assert (size + len(archive_padding(size))) % BLOCK == 0
    assert len(archive_padding(size)) < BLOCK


def test_the_size_of_an_archive_is_known_beforehand() -> None:
    layer, config, manifest_bytes = b"w" * 700, b"{}", b"m" * 600
    manifest = Manifest(config=descriptor(config), layers=(descriptor(layer), descriptor(layer)))

    written = archive_directories() + ARCHIVE_END + file(MANIFEST_NAME, manifest_bytes)
    written += b"".join(file(blob_name(Digest.of(blob)), blob) for blob in (layer, layer, config))

    assert archive_size(manifest, len(manifest_bytes)) == len(written)


def descriptor(data: bytes) -> Descriptor:
    return Descriptor(media_type="x", digest=Digest.of(data), size=len(data))


# --- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 513, 1 << 20])
async def test_files_come_back_in_order_however_the_stream_is_cut(fmt: int, size: int) -> None:
    members = [("b/two", b"2" * 1000), ("./a", b""), ("manifest.json", b"x" * BLOCK)]

    found = await read_all(tar(*members, fmt=fmt), size)

    assert found == [("b/two", b"2" * 1000), ("a", b""), ("manifest.json", b"x" * BLOCK)]


async def test_what_is_not_read_is_skipped() -> None:
    data = tar(("a", b"1" * 5000), ("b", b"2" * 5000), ("c", b"3"))
    found = []
    async for entry in read_archive(pieces(data, 700)):
        first = await anext(aiter(entry.chunks))
        found.append((entry.name.text, first[:1]))

    assert found == [("a", b"1"), ("b", b"2"), ("c", b"3")]
    assert await names(data) == ["a", "b", "c"]


async def test_an_entry_kept_too_long_yields_nothing_of_the_next() -> None:
    entries = [entry async for entry in read_archive(pieces(tar(("a", b"1" * 50), ("b", b"2" * 50))))]

    assert [chunk async for chunk in entries[0].chunks] == []


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_long_names_and_big_numbers_of_pax_and_gnu_are_honoured(fmt: int) -> None:
    name = "d" * 120 + "/" + "é" * 60

    assert await read_all(tar((name, b"content"), ("next", b""), fmt=fmt)) == [(name, b"content"), ("next", b"")]


async def test_the_size_of_a_pax_record_overrules_the_header() -> None:
    record = b"11 size=600\n".replace(b"11", b"12")
    data = header(size=len(record), kind=tarfile.XHDTYPE) + block(record) + header("a", size=3) + block(b"x" * 600)

    assert await read_all(data + ARCHIVE_END) == [("a", b"x" * 600)]


async def test_extended_headers_nobody_needs_are_read_past() -> None:
    data = header(size=9, kind=tarfile.XGLTYPE) + block(b"9 a=bcde\n")
    data += header(size=600, kind=tarfile.GNUTYPE_LONGLINK) + block(b"l" * 600)
    data += header(size=9, kind=tarfile.XHDTYPE) + block(b"9 a=bcde\n") + file("a", b"1")

    assert await read_all(data + ARCHIVE_END) == [("a", b"1")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
async def test_only_regular_files_are_shown(kind: bytes) -> None:
    """A link may state a size, but nothing of that size follows it."""
    data = header("../climbs", size=700, kind=kind) + file("a", b"1") + ARCHIVE_END

    assert await read_all(data) == [("a", b"1")]


async def test_a_type_nobody_knows_is_skipped_with_its_body() -> None:
    assert await read_all(header(size=700, kind=b"V") + block(b"v" * 700) + file("a", b"1") + ARCHIVE_END) == [
        ("a", b"1")
    ]


async def test_padding_after_the_end_is_taken_in_up_to_a_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield file("a", b"1") + ARCHIVE_END
        while True:
            sent += 10240
            yield bytes(10240)

    stream = endless()
    assert [entry.name.text async for entry in read_archive(stream)] == ["a"]
    assert 10240 < sent < 2 * 1024 * 1024
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cut", "at"),
    [(0, 0), (100, 100), (BLOCK + 10, BLOCK + 10), (2 * BLOCK - 1, 2 * BLOCK - 1), (2 * BLOCK, 2 * BLOCK)],
)
async def test_a_stream_that_breaks_off_says_where(cut: int, at: int) -> None:
    data = file("a", b"1" * 400) + ARCHIVE_END

    with pytest.raises(MalformedArtifactError, match=f"at byte {at}: it ends here"):
        await read_all(data[:cut])


def pax(record: bytes) -> bytes:
    return header(size=len(record), kind=tarfile.XHDTYPE) + block(record) + file("a", b"1") + ARCHIVE_END


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"this is no tar archive".ljust(BLOCK, b"!"), "at byte 0: not a tar header"),
        (gzip.compress(os.urandom(2 * BLOCK)), "compressed by gzip; unpack it first"),
        (file("a/../../b", b"1"), "invalid path detected: .*climbs"),
        (file("/etc/passwd", b"1"), "invalid path detected: .*absolute"),
        (file("a\\b", b"1"), "invalid path detected"),
        (tar(("\udce9", b"1"), fmt=tarfile.GNU_FORMAT), "not UTF-8"),
        (header(size=-5), "claims to be -5 bytes"),
        (header(size=1 << 70), "claims to be"),
        (header(size=-5, kind=tarfile.XHDTYPE), "claims to be -5 bytes"),
        (header(size=1 << 30, kind=tarfile.GNUTYPE_LONGNAME), "extended header claims to be 1073741824 bytes"),
        (header(kind=tarfile.GNUTYPE_SPARSE), "sparse"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse"),
        (pax(b"no record at all"), "byte 512: not a pax record"),
        (pax(b"99 path=x\n"), "not a pax record"),
        (pax(b"5 ab\n"), "not a pax record"),
        (pax(b"7 a=bcd"), "not a pax record"),
        (pax(b"9 a=bcde\n0 b=c\n"), "byte 521: not a pax record"),
        (pax(b"12 size=-99\n"), "not a size"),
    ],
)
async def test_what_cannot_be_right_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedArtifactError, match=complaint):
        await read_all(data)


ARCHIVES: Sequence[Callable[[], bytes]] = (
    lambda: tar(("d" * 120, b"1" * 600), ("manifest.json", b"{}")),
    lambda: tar(("d" * 120, b"1" * 600), ("manifest.json", b"{}"), fmt=tarfile.GNU_FORMAT),
)


@settings(max_examples=300, deadline=None)
@given(
    archive=st.sampled_from(ARCHIVES),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
    repair=st.booleans(),
)
async def test_any_damage_is_either_harmless_or_reported(
    archive: Callable[[], bytes], changes: list[tuple[int, int]], *, repair: bool
) -> None:
    data = bytearray(archive())
    for at, value in changes:
        data[at % len(data)] = value
        start = at % len(data) // BLOCK * BLOCK
        if repair:  # a right checksum, so that the damage is not found at once
            total = sum(data[start : start + 148]) + 8 * 32 + sum(data[start + 156 : start + BLOCK])
            data[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
    try:
        found = await read_all(bytes(data), 4096)
    except MalformedArtifactError:
        return
    assert sum(len(content) for _, content in found) <= len(data)
