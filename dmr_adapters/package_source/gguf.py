"""The header of a GGUF file, read without trusting a word of it.

The format is the one of ggml's ``docs/gguf.md``: versions 1 to 3, little- and big-endian. The ``gguf``
package is not used because it takes seconds for a large vocabulary. What a hostile file can cost is
bounded: counts and lengths are checked before anything is allocated for them, nested arrays are walked
with a counter instead of recursion, and of the metadata only as much is kept as a config may hold.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.package_source.header_file import HeaderFile, open_header
from dmr_adapters.package_source.quantization import UNKNOWN_TYPE, tensor_bytes

__all__ = ["DIFFUSION_PREFIXES", "GgufHeader", "Value", "read_gguf"]

Scalar = int | float | str
Value = Scalar | tuple[Scalar, ...]
"""A value of the metadata; an array of arrays is an empty tuple. ``bool`` is an ``int`` here as elsewhere."""

DIFFUSION_PREFIXES: Final = (
    b"model.diffusion_model.",
    b"double_blocks.",
    b"joint_blocks.",
    b"decoder.",
    b"encoder.",
    b"text_model.",
)
"""Tensor names that make gguf-parser-go (``file_metadata.go``) call a file a diffusion model."""

_MAGIC: Final = b"GGUF"
_MAGIC_SWAPPED: Final = b"FUGG"
_VERSIONS: Final = (1, 2, 3)
_DEFAULT_ALIGNMENT: Final = 32  # docs/gguf.md, general.alignment

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}

# Ours, far above what any model has: they bound the time and memory a hostile header can take.
_MAX_PAIRS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 18
_MAX_NAME: Final = (1 << 16) - 1  # docs/gguf.md bounds keys so; tensor names are shorter still
_MAX_WALKED: Final = 1 << 24
_MAX_DEPTH: Final = 8
_MAX_ELEMENTS: Final = 1 << 63
_MAX_DIMENSIONS: Final = 4  # ggml.h, GGML_MAX_DIMS
_MAX_KEPT_ARRAY: Final = 50  # the reference keeps no longer arrays in a config
_MAX_KEPT: Final = 1 << 20  # characters of metadata in all; a config must stay a small blob

# Files that declare less tensor data than this are headers without a body, as the reference's own test
# vectors are (288 bytes declared, 64 present). No engine loads them, so there is nothing to be cut off.
_HEADER_ONLY: Final = 512


@attrs.frozen(kw_only=True)
class GgufHeader:
    """What one GGUF file says about itself.

    ``votes`` counts tensors per type among those that tell the quantization, ``weight_votes`` among
    all whose names end in ``.weight``, which is what counts for diffusion models. ``data_size`` is the
    size of the tensors as the reference counts it.
    """

    version: int
    values: Mapping[str, Value]
    tensor_count: int
    parameters: int
    votes: Mapping[int, int]
    weight_votes: Mapping[int, int]
    diffusion: bool
    data_start: int
    data_size: int


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of the file at ``path``.

    Raises:
        MalformedArtifactError: it breaks the format, or the file is too short for its tensors; names
            the file and the byte.
        InvalidRequestError: the file cannot be read.
    """
    with open_header(path, "GGUF") as file:
        return _Reader(file).read()


class _Reader:
    """One pass over a header."""

    def __init__(self, file: HeaderFile) -> None:
        self._file = file
        self._version, self._order = self._preamble()
        self._u32 = struct.Struct(self._order + "I")
        self._u64 = struct.Struct(self._order + "Q")
        self._length = self._u32 if self._version == 1 else self._u64  # version 2 made lengths 64 bits wide
        self._scalars = {kind: struct.Struct(self._order + code) for kind, code in _SCALARS.items()}
        self._alignment = _DEFAULT_ALIGNMENT
        self._kept = 0
        self._walked = 0

    def read(self) -> GgufHeader:
        tensor_count = self._bounded(self._length, _MAX_TENSORS, "tensors")
        pair_count = self._bounded(self._length, _MAX_PAIRS, "metadata entries")
        values: dict[str, Value] = {}
        for _ in range(pair_count):
            self._pair(values)
        tensors = _Tensors()
        for _ in range(tensor_count):
            self._tensor(tensors)
        end = self._file.position
        data_start = -(-end // self._alignment) * self._alignment
        self._check_complete(tensors, data_start, max(0, self._file.size - data_start))
        # The reference skips to the next boundary even from a boundary, and the size it shows lacks what it skipped.
        data_size = max(0, self._file.size - (end + self._alignment - end % self._alignment))
        return GgufHeader(
            version=self._version,
            values=values,
            tensor_count=tensor_count,
            parameters=tensors.parameters,
            votes=tensors.votes,
            weight_votes=tensors.weight_votes,
            diffusion=tensors.diffusion,
            data_start=data_start,
            data_size=data_size,
        )

    def _preamble(self) -> tuple[int, str]:
        """Version and byte order; a big-endian file may have its magic swapped or not."""
        magic = self._file.take(len(_MAGIC))
        if magic not in (_MAGIC, _MAGIC_SWAPPED):
            raise self._file.malformed(f"it begins with {magic!r}, not with {_MAGIC!r}: this is no GGUF file", at=0)
        raw = self._file.take(4)
        little, big = int.from_bytes(raw, "little"), int.from_bytes(raw, "big")
        if magic == _MAGIC and little in _VERSIONS:
            return little, "<"
        if big in _VERSIONS:
            return big, ">"
        supported = ", ".join(map(str, _VERSIONS))
        raise self._file.malformed(f"version {min(little, big)} is not supported (supported: {supported})", at=4)

    def _bounded(self, layout: struct.Struct, limit: int, what: str) -> int:
        at = self._file.position
        count = self._file.number(layout)
        if count > limit:
            raise self._file.malformed(f"{count} {what}, at most {limit} are allowed", at)
        return count

    def _name(self, what: str) -> bytes:
        return self._file.take(self._bounded(self._length, _MAX_NAME, f"bytes in the name of a {what}"))

    # --- metadata -------------------------------------------------------------------------------------

    def _pair(self, values: dict[str, Value]) -> None:
        at = self._file.position
        key = _text(self._name("metadata entry"))
        kind = self._file.number(self._u32)
        value = self._value(kind)
        if key == "general.alignment":
            self._alignment = self._checked_alignment(value, at)
        if value is None:
            return
        self._kept += len(key) + (sum(map(_weight, value)) if isinstance(value, tuple) else _weight(value))
        if self._kept <= _MAX_KEPT:
            values[key] = value

    def _value(self, kind: int) -> Value | None:
        """The next value, ``None`` for one that is too long to be kept."""
        if kind == _ARRAY:
            return self._array()
        if kind == _STRING:
            return self._string()
        return self._scalar(kind)

    def _scalar(self, kind: int) -> int | float:
        layout = self._scalars.get(kind)
        if layout is None:
            raise self._file.malformed(f"unknown metadata type {kind}")
        value: int | float = layout.unpack(self._file.take(layout.size))[0]
        return bool(value) if kind == _BOOL else value

    def _string(self) -> str | None:
        length = self._file.number(self._length)
        if length > _MAX_KEPT:
            self._file.skip(length)
            return None
        return _text(self._file.take(length))

    def _array(self) -> tuple[Scalar, ...] | None:
        kind, count = self._file.number(self._u32), self._file.number(self._length)
        if kind == _ARRAY:
            self._skip_nested(count)
            return () if count <= _MAX_KEPT_ARRAY else None
        if count > _MAX_KEPT_ARRAY:
            self._skip_flat(kind, count)
            return None
        if kind == _STRING:
            strings = [self._string() for _ in range(count)]
            return tuple("" if string is None else string for string in strings)
        return tuple(self._scalar(kind) for _ in range(count))

    def _skip_flat(self, kind: int, count: int) -> None:
        if kind == _STRING:
            self._walk(count)
            self._file.skip_prefixed(count, self._length)
            return
        layout = self._scalars.get(kind)
        if layout is None:
            raise self._file.malformed(f"unknown metadata type {kind}")
        self._file.skip(count * layout.size)

    def _skip_nested(self, count: int) -> None:
        """Pass over ``count`` arrays; ``pending`` holds how many are still to come on every level."""
        pending = [count]
        while pending:
            if pending[-1] == 0:
                pending.pop()
                continue
            pending[-1] -= 1
            self._walk(1)
            kind, inner = self._file.number(self._u32), self._file.number(self._length)
            if kind != _ARRAY:
                self._skip_flat(kind, inner)
            elif len(pending) == _MAX_DEPTH:
                raise self._file.malformed(f"arrays nested more than {_MAX_DEPTH} deep")
            else:
                pending.append(inner)

    def _walk(self, count: int) -> None:
        self._walked += count
        if self._walked > _MAX_WALKED:
            raise self._file.malformed(f"more than {_MAX_WALKED} array elements of variable length")

    def _checked_alignment(self, value: Value | None, at: int) -> int:
        if not isinstance(value, int) or not 0 < value < 1 << 32 or value & (value - 1):
            raise self._file.malformed(f"general.alignment is {value!r}, it must be a power of two", at)
        return value

    # --- tensors --------------------------------------------------------------------------------------

    def _tensor(self, tensors: _Tensors) -> None:
        at = self._file.position
        name = self._name("tensor")
        elements = 1
        for _ in range(self._bounded(self._u32, _MAX_DIMENSIONS, "dimensions of a tensor")):
            elements *= self._file.number(self._length)
        if elements > _MAX_ELEMENTS:
            raise self._file.malformed(f"tensor {_text(name)[:100]!r} has {elements} elements", at)
        kind, offset = self._file.number(self._u32), self._file.number(self._u64)
        tensors.add(name, kind, elements, offset)

    def _check_complete(self, tensors: _Tensors, data_start: int, data_size: int) -> None:
        reach = tensors.begin if tensors.declared < _HEADER_ONLY else tensors.end
        if reach > data_size:
            name = _text(tensors.last)[:100]
            raise self._file.malformed(
                f"tensor {name!r} reaches to byte {data_start + reach}, but the file ends here: it was cut off",
                at=self._file.size,
            )


class _Tensors:
    """What is remembered of the tensors: sums, so that a million of them costs no more than one."""

    def __init__(self) -> None:
        self.parameters = 0
        self.declared = 0
        self.begin = 0
        self.end = 0
        self.last = b""
        self.diffusion = False
        self.votes: Counter[int] = Counter()
        self.weight_votes: Counter[int] = Counter()

    def add(self, name: bytes, kind: int, elements: int, offset: int) -> None:
        size = tensor_bytes(kind, elements)
        length = size or 0
        self.parameters += elements
        self.declared += length
        self.begin = max(self.begin, offset + min(length, 1))
        if offset + length > self.end:
            self.end, self.last = offset + length, name
        self.diffusion = self.diffusion or name.startswith(DIFFUSION_PREFIXES)
        vote = UNKNOWN_TYPE if size is None else kind
        if name.endswith(b".weight"):
            self.weight_votes[vote] += 1
            self.votes[vote] += 1
        elif name.startswith((b"token_embd", b"blk.")) or b"_norm" in name:
            self.votes[vote] += 1


def _text(raw: bytes) -> str:
    """``raw`` as text, every byte that is not UTF-8 replaced on its own, as Go does."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
        return "".join("\ufffd" if "\udc80" <= character <= "\udcff" else character for character in text)


def _weight(value: Scalar) -> int:
    """Roughly how many characters a value takes in a config."""
    return len(value) if isinstance(value, str) else 8
