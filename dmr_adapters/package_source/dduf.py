"""What a DDUF file says it is: a zip archive of a diffusion model, stored without compression.

The format is huggingface's (``huggingface_hub``, "DDUF": ``model_index.json`` at the root names the pipeline);
of zip, PKWARE's APPNOTE 6.3 sections 4.3.7 to 4.3.16 are read. Only the directory at the end of the file and that
one document are, and each is bounded before it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import WeightsMetadata

__all__ = ["dduf_metadata"]

_STUB: Final = b"PK"
"""Two bytes that stand for an archive: the reference's own test vector. No engine loads it, so nothing can be wrong."""

_INDEX: Final = "model_index.json"
_PIPELINE: Final = "_class_name"
_MAX_INDEX: Final = 1 << 20
_MAX_DIRECTORY: Final = 16 << 20
_MAX_COMMENT: Final = (1 << 16) - 1
_MAX_NAME: Final = 200

_END: Final = struct.Struct("<4s4H2IH")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_EXTRA: Final = struct.Struct("<2H")
_LONG: Final = struct.Struct("<Q")
_IN_EXTRA: Final = 0xFFFFFFFF  # the number does not fit, and is in the extra field
_ZIP64: Final = 1
_ENCRYPTED: Final = 1


@attrs.frozen(kw_only=True)
class _Entry:
    """A file of the archive; ``header`` is where it begins, ``at`` where the directory says so."""

    name: str
    size: int
    header: int
    at: int


def dduf_metadata(path: Path) -> WeightsMetadata:
    """What the file at ``path`` says: ``pipeline`` in ``raw``, the class that it is run with.

    Raises:
        MalformedArtifactError: it is no zip archive, or one that is no DDUF; names the file and the byte.
        InvalidRequestError: the file cannot be read.
    """
    try:
        with FileIO(path) as file:
            return _Archive(file, path).metadata()
    except OSError as exc:
        raise InvalidRequestError(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc


class _Archive:
    def __init__(self, file: FileIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = file.seek(0, 2)

    def metadata(self) -> WeightsMetadata:
        if self._size == len(_STUB) and self._read(0, len(_STUB)) == _STUB:
            return WeightsMetadata()
        return WeightsMetadata(raw=self._pipeline())

    def _pipeline(self) -> dict[str, str]:
        index = next((entry for entry in self._entries() if entry.name == _INDEX), None)
        if index is None:
            raise self._malformed(f"it holds no {_INDEX} at its root", self._size)
        if index.size > _MAX_INDEX:
            raise self._malformed(f"{_INDEX} has {index.size} bytes, at most {_MAX_INDEX} are allowed", index.at)
        begin = self._content_of(index)
        try:
            document: Any = msgspec.json.decode(self._read(begin, index.size))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise self._malformed(f"{_INDEX} is not JSON: {exc}", begin) from exc
        name = document.get(_PIPELINE) if isinstance(document, dict) else None
        return {"pipeline": name[:_MAX_NAME]} if isinstance(name, str) else {}

    # --- the directory, at the end of the file

    def _entries(self) -> Iterator[_Entry]:
        """Every file of the archive, in order; one that is compressed, encrypted or out of bounds is refused."""
        begin, length, count = self._directory()
        data, at = self._read(begin, length), 0
        for _ in range(count):
            place = begin + at
            if at + _ENTRY.size > length:
                raise self._malformed(f"its directory should list {count} files, but ends here", place)
            magic, _, _, flags, method, _, _, _, packed, size, *rest = _ENTRY.unpack_from(data, at)
            name_length, extra_length, comment_length, _, _, _, header = rest
            if magic != b"PK\x01\x02":
                raise self._malformed(f"an entry of its directory begins with {magic!r}", place)
            at += _ENTRY.size
            name = data[at : at + name_length].decode("utf-8", "replace")
            extra = data[at + name_length : at + name_length + extra_length]
            at += name_length + extra_length + comment_length
            if at > length:
                raise self._malformed("an entry of its directory is longer than the directory", place)
            size, packed, header = self._long(extra, (size, packed, header), place)
            if method or flags & _ENCRYPTED or size != packed:
                raise self._malformed(f"{name[:_MAX_NAME]!r} is compressed or encrypted: a DDUF may not be", place)
            if header + _LOCAL.size + size > begin:
                raise self._malformed(f"{name[:_MAX_NAME]!r} lies outside the file: it was cut off", place)
            yield _Entry(name=name, size=size, header=header, at=place)

    def _directory(self) -> tuple[int, int, int]:
        """Where the directory begins, its length in bytes, and how many files it lists."""
        at, end = self._end()
        _, _, _, _, count, length, begin, _ = end
        if at >= _LOCATOR.size:
            magic, _, where, _ = _LOCATOR.unpack(self._read(at - _LOCATOR.size, _LOCATOR.size))
            if magic == b"PK\x06\x07":
                if where + _END_64.size > at - _LOCATOR.size:
                    raise self._malformed("the end of its directory lies outside the file", at - _LOCATOR.size)
                magic, *_, count, length, begin = _END_64.unpack(self._read(where, _END_64.size))
                if magic != b"PK\x06\x06":
                    raise self._malformed(f"the end of its directory begins with {magic!r}", where)
        if length > _MAX_DIRECTORY:
            raise self._malformed(f"a directory of {length} bytes, at most {_MAX_DIRECTORY} are allowed", at)
        if begin + length > at or count * _ENTRY.size > length:
            raise self._malformed(f"a directory of {count} files in {length} bytes at byte {begin} cannot be", at)
        return begin, length, count

    def _end(self) -> tuple[int, tuple[Any, ...]]:
        """The record that closes an archive, and where it is: before a comment of at most 64 KiB."""
        start = max(0, self._size - _END.size - _MAX_COMMENT)
        tail = self._read(start, self._size - start)
        at = len(tail)
        while (at := tail.rfind(b"PK\x05\x06", 0, at)) >= 0:
            if at + _END.size <= len(tail):
                record = _END.unpack_from(tail, at)
                if at + _END.size + record[-1] == len(tail):
                    return start + at, record
        raise self._malformed("no directory of a zip archive: this is no DDUF file, or it was cut off", self._size)

    def _long(self, extra: bytes, numbers: tuple[int, int, int], place: int) -> list[int]:
        """Size, packed size and place of a file, those that need 64 bits from the extra field."""
        at, field = 0, b""
        while at + _EXTRA.size <= len(extra):
            kind, length = _EXTRA.unpack_from(extra, at)
            if kind == _ZIP64:
                field = extra[at + _EXTRA.size : at + _EXTRA.size + length]
            at += _EXTRA.size + length
        found, at = [], 0
        for number in numbers:
            if number != _IN_EXTRA:
                found.append(number)
                continue
            if at + _LONG.size > len(field):
                raise self._malformed("an entry of its directory lacks its 64-bit numbers", place)
            found.append(_LONG.unpack_from(field, at)[0])
            at += _LONG.size
        return found

    # --- bytes

    def _content_of(self, entry: _Entry) -> int:
        """Where the bytes of a file begin."""
        magic, *_, name_length, extra_length = _LOCAL.unpack(self._read(entry.header, _LOCAL.size))
        if magic != b"PK\x03\x04":
            raise self._malformed(f"{entry.name!r} begins with {magic!r}", entry.header)
        begin: int = entry.header + _LOCAL.size + name_length + extra_length
        if begin + entry.size > self._size:
            raise self._malformed(f"{entry.name!r} reaches beyond the end of the file: it was cut off", entry.header)
        return begin

    def _read(self, begin: int, count: int) -> bytes:
        """``count`` bytes, which the caller has bounded."""
        self._file.seek(begin)
        data = self._file.read(count)
        if len(data) < count:
            raise self._malformed(f"{count} bytes should be at byte {begin}, but the file ends: it was cut off", begin)
        return data

    def _malformed(self, reason: str, at: int) -> MalformedArtifactError:
        return MalformedArtifactError(f"malformed DDUF file {str(self._path)!r} at byte {at}: {reason}")
