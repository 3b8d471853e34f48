"""The tar stream in which models travel between stores: its layout, how to write it, how to read a stranger's.

``blobs/``, ``blobs/sha256/``, one ``blobs/sha256/<hex>`` per layer in manifest order and the config
after them, then ``manifest.json`` with the manifest's own bytes: the order and modes the reference
writes. Headers are POSIX ustar (IEEE 1003.1, pax, "ustar Interchange Format"); a file of 8 GiB or more,
whose size ustar cannot hold, is preceded by a pax record, as Go's ``archive/tar`` does.

The reader understands ustar, old V7 and GNU headers, the pax records ``path`` and ``size``, and GNU long
names. All else that tar can say (links, devices, owners, times) is read past, because a model consists
of regular files. Sparse files are refused: their bytes are not the bytes of the file.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import attrs

from dmr_core.domain.artifact import Manifest
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError

__all__ = [
    "ARCHIVE_END",
    "BLOCK",
    "MANIFEST_NAME",
    "ArchiveEntry",
    "archive_directories",
    "archive_header",
    "archive_padding",
    "archive_size",
    "blob_name",
    "read_archive",
]

_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2"}
"""How files begin that compressors write (RFC 1952, RFC 8878, the formats of xz and bzip2)."""

BLOCK: Final = 512
MANIFEST_NAME: Final = "manifest.json"
ARCHIVE_END: Final = bytes(2 * BLOCK)

_DIRECTORIES: Final = ("blobs", "blobs/sha256")
_FILE_MODE: Final = 0o666
_DIRECTORY_MODE: Final = 0o755

_MAX_SIZE: Final = 1 << 62
_MAX_EXTENSION: Final = 1 << 20  # Go's archive/tar refuses longer ones too (maxSpecialFileSize)
_MAX_TRAILER: Final = 1 << 20  # GNU tar pads to 10 KiB, and further when told to
_REGULAR: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_BODY: Final = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
_PAX: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS: Final = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


# --- writing ------------------------------------------------------------------------------------------


def blob_name(digest: Digest) -> str:
    """Where a blob stands in an archive."""
    return f"{_DIRECTORIES[-1]}/{digest.hex}"


def archive_directories() -> bytes:
    """The two directory entries every archive begins with."""
    return b"".join(_header(name, 0, tarfile.DIRTYPE, _DIRECTORY_MODE) for name in _DIRECTORIES)


def archive_header(name: str, size: int) -> bytes:
    """What stands before the ``size`` bytes of file ``name``."""
    return _header(name, size, tarfile.REGTYPE, _FILE_MODE)


def archive_padding(size: int) -> bytes:
    """What stands after the ``size`` bytes of a file: zeros up to the next block."""
    return bytes(-size % BLOCK)


def archive_size(manifest: Manifest, manifest_size: int) -> int:
    """The length in bytes of a model's archive, known before its first byte is written."""
    files = [(blob_name(blob.digest), blob.size) for blob in manifest.blobs]
    files.append((MANIFEST_NAME, manifest_size))
    bodies = sum(len(archive_header(name, size)) + size + (-size % BLOCK) for name, size in files)
    return len(archive_directories()) + bodies + len(ARCHIVE_END)


def _header(name: str, size: int, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode, info.mtime = size, kind, mode, 0
    # The pax format of the standard library is plain ustar wherever ustar can say it.
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


# --- reading ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ArchiveEntry:
    """A regular file in an archive. ``chunks`` can be read once, until the next entry is asked for."""

    name: RelativePath
    size: int
    chunks: AsyncIterator[bytes]


async def read_archive(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ArchiveEntry, None]:
    """The regular files of the tar stream that ``chunks`` carry, in the order they come.

    What the reader leaves of an entry is skipped when it asks for the next. Padding after the end
    marker is taken in, so that whoever sends it is not cut off.

    Raises:
        MalformedArtifactError: the stream breaks off, is no tar archive, or holds a name or a size that
            cannot be right; says at which byte.
    """
    stream = _Stream(chunks)
    said = _Extensions()
    while (info := await _next_header(stream)) is not None:
        if info.type in _EXTENSIONS:
            said = await _extend(said, info, stream)
            continue
        size = info.size if said.size is None else said.size
        if not 0 <= size <= _MAX_SIZE:
            raise stream.malformed(f"an entry claims to be {size} bytes long")
        if info.type == tarfile.GNUTYPE_SPARSE or said.sparse:
            raise stream.malformed("it holds a sparse file; write it again without --sparse")
        body = stream.begin_body(0 if info.type in _WITHOUT_BODY else size)
        if info.type in _REGULAR:
            name = _name(info.name if said.path is None else said.path, stream)
            yield ArchiveEntry(name=name, size=size, chunks=body)
        await stream.skip_body()
        said = _Extensions()
    await stream.drain(_MAX_TRAILER)


@attrs.frozen(kw_only=True)
class _Extensions:
    """What extended headers say about the entry after them."""

    path: str | None = None
    size: int | None = None
    sparse: bool = False


async def _next_header(stream: _Stream) -> tarfile.TarInfo | None:
    at = stream.position
    block = await stream.exactly(BLOCK)
    if not any(block):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        packed = next((name for magic, name in _COMPRESSED.items() if not at and block.startswith(magic)), None)
        if packed is not None:
            raise MalformedArtifactError(f"malformed archive: it is compressed by {packed}; unpack it first") from exc
        raise MalformedArtifactError(f"malformed archive at byte {at}: not a tar header ({exc})") from exc


async def _extend(said: _Extensions, info: tarfile.TarInfo, stream: _Stream) -> _Extensions:
    size = info.size
    if not 0 <= size <= _MAX_EXTENSION:
        raise stream.malformed(f"an extended header claims to be {size} bytes long, at most {_MAX_EXTENSION} are read")
    at = stream.position
    data = (await stream.exactly(size + -size % BLOCK))[:size]
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return attrs.evolve(said, path=data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))
    return _pax(said, data, at) if info.type in _PAX else said


def _pax(said: _Extensions, data: bytes, at: int) -> _Extensions:
    r"""Take in records ``<length> <key>=<value>\n``, where the length counts the whole record (IEEE 1003.1, pax)."""
    start = 0
    while start < len(data):
        digits, _, _ = data[start : start + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[start : start + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or not record.endswith(b"\n"):
            raise MalformedArtifactError(f"malformed archive at byte {at + start}: not a pax record")
        said = _record(said, key, value, at + start)
        start += length
    return said


def _record(said: _Extensions, key: bytes, value: bytes, at: int) -> _Extensions:
    if key == b"path":
        return attrs.evolve(said, path=value.decode("utf-8", "surrogateescape"))
    if key == b"size":
        if not value.isdigit() or len(value) > 20:
            raise MalformedArtifactError(f"malformed archive at byte {at}: {value[:40]!r} is not a size")
        return attrs.evolve(said, size=int(value))
    return attrs.evolve(said, sparse=True) if key.startswith(b"GNU.sparse.") else said


def _name(text: str, stream: _Stream) -> RelativePath:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise stream.malformed(f"the name {text[:200]!a} is not UTF-8")
    try:
        return RelativePath.parse(text)
    except MalformedArtifactError as exc:
        raise stream.malformed(f"invalid path detected: {exc.message}") from exc


class _Stream:
    """Chunks of any size, read as exact lengths and as bodies of known length."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._used = 0
        self._bodies = 0
        self._body_left = 0
        self._padding = 0
        self.position = 0

    def malformed(self, reason: str) -> MalformedArtifactError:
        return MalformedArtifactError(f"malformed archive at byte {self.position}: {reason}")

    async def exactly(self, count: int) -> bytes:
        """``count`` bytes."""
        parts = []
        while count:
            parts.append(await self._some(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def begin_body(self, size: int) -> AsyncIterator[bytes]:
        """From here on come ``size`` bytes of a file, and its padding; the result reads the bytes."""
        self._bodies += 1
        self._body_left, self._padding = size, -size % BLOCK
        return self._body(self._bodies)

    async def _body(self, number: int) -> AsyncGenerator[bytes, None]:
        # A reader that comes back after the next file has begun must not be given that file's bytes.
        while self._body_left and number == self._bodies:
            chunk = await self._some(self._body_left)
            self._body_left -= len(chunk)
            yield chunk

    async def skip_body(self) -> None:
        """Read past what is left of the file and its padding."""
        self._body_left, left = 0, self._body_left + self._padding
        while left:
            left -= len(await self._some(left))

    async def drain(self, limit: int) -> None:
        """Take in what is left, up to ``limit`` bytes."""
        while limit > 0 and await self._fill():
            limit -= len(self._take(limit))

    async def _some(self, limit: int) -> bytes:
        if not await self._fill():
            raise self.malformed("it ends here before it is complete; it was cut off on its way, send it again")
        return self._take(limit)

    async def _fill(self) -> bool:
        while self._used == len(self._chunk):
            try:
                self._chunk, self._used = await anext(self._chunks), 0
            except StopAsyncIteration:
                return False
        return True

    def _take(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of the chunk at hand; slicing the whole of it makes no copy."""
        taken = self._chunk[self._used : self._used + limit]
        self._used += len(taken)
        self.position += len(taken)
        return taken
