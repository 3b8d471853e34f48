"""The headers of safetensors files, and the ``config.json`` beside them.

A file begins with the length of its header (64 bits, little-endian) and the header, a JSON object of
tensors by name (huggingface/safetensors, README, "Format"; that library too caps headers at 100 MB).
Tensors are decoded one at a time, so that a header costs little more memory than its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from dmr_adapters.package_source.header_file import HeaderFile, open_header
from dmr_core.domain.quantities import safetensors_parameters, safetensors_size
from dmr_core.errors import MalformedArtifactError
from dmr_core.ports.package_source import WeightsMetadata

__all__ = ["SafetensorsHeader", "read_safetensors", "safetensors_metadata"]

_LENGTH: Final = struct.Struct("<Q")
_MAX_HEADER: Final = 100 * 1024 * 1024
_MAX_TENSORS: Final = 1 << 18  # in one file, and in all of a model; ours, several times the largest known
_MAX_DIMENSIONS: Final = 32
_MAX_ELEMENTS: Final = 1 << 63
_MAX_METADATA: Final = 1 << 20  # characters kept of __metadata__; a config must stay a small blob
_METADATA: Final = "__metadata__"

# Bits of one element (safetensors, tensor.rs, Dtype). Types that are not here are believed without a check.
_BITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

_CONFIG: Final = "config.json"
_MAX_CONFIG: Final = 16 * 1024 * 1024
_MAX_FIELD: Final = 1 << 16
_MAX_NESTED: Final = 2
_MAX_CONTEXT: Final = 2**31 - 1
# What models of several parts call the config of the part that reads and writes text (transformers, get_text_config).
_LANGUAGE_KEYS: Final = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "generator")
_CONTEXT_KEYS: Final = (
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
)


class _Config(msgspec.Struct):
    """The fields of a ``config.json`` that say something here, unread; the rest is passed over and takes no memory."""

    architectures: msgspec.Raw = msgspec.Raw()
    model_type: msgspec.Raw = msgspec.Raw()
    max_position_embeddings: msgspec.Raw = msgspec.Raw()
    n_ctx: msgspec.Raw = msgspec.Raw()
    n_positions: msgspec.Raw = msgspec.Raw()
    max_length: msgspec.Raw = msgspec.Raw()
    max_sequence_length: msgspec.Raw = msgspec.Raw()
    model_max_length: msgspec.Raw = msgspec.Raw()
    text_config: msgspec.Raw = msgspec.Raw()
    llm_config: msgspec.Raw = msgspec.Raw()
    language_config: msgspec.Raw = msgspec.Raw()
    thinker_config: msgspec.Raw = msgspec.Raw()
    decoder: msgspec.Raw = msgspec.Raw()
    generator: msgspec.Raw = msgspec.Raw()


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@attrs.frozen(kw_only=True)
class SafetensorsHeader:
    """What one file says about itself. ``tensors`` are dtype and number of elements by name."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[str, int]]
    size: int


def safetensors_metadata(paths: Sequence[Path]) -> WeightsMetadata:
    """What the files at ``paths``, the shards of one model, say together.

    A tensor that several files name is one tensor: names are unique within a model, so it is counted
    once. Architecture and context size come from the ``config.json`` next to the files where the
    headers are silent; one that cannot be read costs just these two.

    Raises:
        MalformedArtifactError: a header breaks the format, or a file is too short for its tensors.
        InvalidRequestError: a file cannot be read.
    """
    tensors: dict[str, tuple[str, int]] = {}
    metadata: Mapping[str, str] = {}
    size = 0
    for number, path in enumerate(paths):
        header = read_safetensors(path)
        size += header.size
        metadata = header.metadata if number == 0 else metadata
        tensors.update(header.tensors)
        if len(tensors) > _MAX_TENSORS:
            raise MalformedArtifactError(f"malformed safetensors file {str(path)!r}: more than {_MAX_TENSORS} tensors")
    configs = _config_beside(paths)
    return WeightsMetadata(
        parameters=safetensors_parameters(sum(elements for _, elements in tensors.values())),
        quantization=_quantization({dtype for dtype, _ in tensors.values()}),
        architecture=metadata.get("architecture") or _architecture(configs),
        size=safetensors_size(size),
        context_size=_context_size(configs),
        raw={**metadata, "tensor_count": str(len(tensors))},
    )


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Read the header of the file at ``path``.

    Raises:
        MalformedArtifactError: it breaks the format, or the file is too short for its tensors; names
            the file and the byte.
        InvalidRequestError: the file cannot be read.
    """
    with open_header(path, "safetensors") as file:
        length = file.number(_LENGTH)
        if length > _MAX_HEADER:
            raise file.malformed(f"a header of {length} bytes, at most {_MAX_HEADER} are allowed", at=0)
        entries = _entries(file, file.take(length))
        data_size = file.size - file.position
        metadata = _kept_metadata(entries.pop(_METADATA, None))
        if len(entries) > _MAX_TENSORS:
            raise file.malformed(f"{len(entries)} tensors, at most {_MAX_TENSORS} are allowed", _LENGTH.size)
        tensors = {name: _tensor(file, name, raw, data_size) for name, raw in entries.items()}
        return SafetensorsHeader(metadata=metadata, tensors=tensors, size=file.size)


def _entries(file: HeaderFile, header: bytes) -> dict[str, msgspec.Raw]:
    # A tensor has four colons, and __metadata__ has some. Counted first, because a dictionary of ten million
    # entries, which is what the longest header has room for, would take gigabytes.
    if header.count(b":") > 5 * _MAX_TENSORS:
        raise file.malformed(f"more than {_MAX_TENSORS} tensors", _LENGTH.size)
    try:
        return msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise file.malformed(f"the header is not a JSON object: {exc}", _LENGTH.size) from exc


def _tensor(file: HeaderFile, name: str, raw: msgspec.Raw, data_size: int) -> tuple[str, int]:
    def malformed(reason: str) -> MalformedArtifactError:
        return file.malformed(f"tensor {name[:100]!r}: {reason}", _LENGTH.size)

    try:
        tensor = msgspec.json.decode(raw, type=_Tensor)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise malformed(str(exc)) from exc
    if len(tensor.shape) > _MAX_DIMENSIONS or min(tensor.shape, default=0) < 0:
        raise malformed(f"impossible shape with {len(tensor.shape)} dimensions")
    elements = math.prod(tensor.shape)
    begin, end = tensor.data_offsets
    if elements > _MAX_ELEMENTS or not 0 <= begin <= end:
        raise malformed(f"{elements} elements at bytes {begin} to {end} of the data")
    bits = _BITS.get(tensor.dtype)
    if bits is not None and elements * bits != (end - begin) * 8:
        raise malformed(f"{elements} elements of {tensor.dtype} do not take {end - begin} bytes")
    if end > data_size:
        raise malformed(
            f"it reaches to byte {file.position + end}, but the file ends at byte {file.size}: it was cut off"
        )
    return tensor.dtype, elements


def _kept_metadata(raw: msgspec.Raw | None) -> dict[str, str]:
    """The strings of ``__metadata__``, as many as a config can hold; training tools put whole logs there."""
    try:
        found = msgspec.json.decode(raw or b"{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    kept, left = {}, _MAX_METADATA
    for key, value in found.items():
        if isinstance(value, str) and len(key) + len(value) <= left:
            kept[key] = value
            left -= len(key) + len(value)
    return kept


def _quantization(dtypes: set[str]) -> str:
    if not dtypes:
        return "unknown"
    return "mixed" if len(dtypes) > 1 else next(iter(dtypes))


def _config_beside(paths: Sequence[Path]) -> tuple[_Config, ...]:
    """The first ``config.json`` that stands next to one of the files, and the configs in it that are looked at."""
    for directory in dict.fromkeys(path.parent for path in paths):
        path = directory / _CONFIG
        try:
            if path.stat().st_size > _MAX_CONFIG:
                return ()
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError:
            return ()
        return tuple(_nested(msgspec.Raw(content), depth=0))
    return ()


def _nested(raw: msgspec.Raw, depth: int) -> Iterator[_Config]:
    """A config, then that of its language model where the model is made of several, which may be made of several too."""
    try:
        config = msgspec.json.decode(raw, type=_Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    yield config
    if depth < _MAX_NESTED:
        for key in _LANGUAGE_KEYS:
            if inner := getattr(config, key):
                yield from _nested(inner, depth + 1)


def _value(config: _Config, key: str) -> Any:
    """A field of a config, ``None`` if it is not there, cannot be read, or is longer than any that makes sense."""
    raw: msgspec.Raw = getattr(config, key)
    try:
        return msgspec.json.decode(raw) if 0 < len(memoryview(raw)) <= _MAX_FIELD else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _architecture(configs: tuple[_Config, ...]) -> str:
    for config in configs:
        names = _value(config, "architectures")
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
        if isinstance(kind := _value(config, "model_type"), str):
            return kind
    return ""


def _context_size(configs: tuple[_Config, ...]) -> int | None:
    for config in configs:
        for key in _CONTEXT_KEYS:
            value = _value(config, key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_CONTEXT:
                return value
    return None
