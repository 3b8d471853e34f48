"""The one converter of OCI documents: bytes of manifests and configs into the core's values.

Everything here is hostile input. Documents are bounded before they are built, primitives are taken
as they are or refused (``null`` never becomes ``'None'``), fields nobody knows are ignored, and a
``null`` field counts as absent, because writers in Go leave both behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, get_args, get_origin

import attrs
import orjson
from cattrs import BaseValidationError, IterableValidationError, IterableValidationNote, transform_error
from cattrs.gen import make_dict_structure_fn, override
from cattrs.preconf.orjson import make_converter
from cattrs.v import format_exception

from dmr_core.domain.artifact import MANIFEST_MEDIA_TYPE, Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.errors import DmrError, MalformedArtifactError, UnsupportedFormatError

__all__ = ["MAX_DOCUMENT", "MAX_LAYERS", "decode_config", "decode_manifest", "is_modelpack_config"]

MAX_DOCUMENT: Final = 8 * 1024 * 1024
MAX_LAYERS: Final = 10_000
_MAX_VALUES: Final = 1 << 19  # each takes some 64 bytes in memory, and as few as three in a document

_INDEX_MEDIA_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_INT32: Final = 2**31 - 1
_MAX_INT64: Final = 2**63 - 1
_MAX_MEDIA_TYPE: Final = 255  # RFC 6838, 4.2: two names of up to 127 characters
_SHOWN_PROBLEMS: Final = 5
_MAX_PROBLEM: Final = 300  # characters; a problem may quote what it is about, which may be megabytes

_T = TypeVar("_T")


@attrs.frozen
class _DockerInner:
    """``config`` of a Docker-format config."""

    format: str = ""
    quantization: str = ""
    parameters: str = ""
    architecture: str = ""
    size: str = ""
    gguf: Mapping[str, str] = attrs.field(factory=dict)
    safetensors: Mapping[str, str] = attrs.field(factory=dict)
    diffusers: Mapping[str, str] = attrs.field(factory=dict)
    context_size: int | None = None


@attrs.frozen
class _DockerDescriptor:
    created: str = ""


@attrs.frozen
class _RootFs:
    diff_ids: tuple[str, ...] = ()


@attrs.frozen
class _DockerConfig:
    """The config schema that v0.1 and v0.2 share."""

    config: _DockerInner = attrs.field(factory=_DockerInner)
    descriptor: _DockerDescriptor = attrs.field(factory=_DockerDescriptor)
    rootfs: _RootFs = attrs.field(factory=_RootFs)


@attrs.frozen
class _PackInner:
    """``config`` of a ModelPack config."""

    architecture: str = ""
    format: str = ""
    parameters: str = ""
    quantization: str = ""


@attrs.frozen
class _PackDescriptor:
    created: str = ""


@attrs.frozen
class _ModelFs:
    diff_ids: tuple[str, ...] = ()


@attrs.frozen
class _PackConfig:
    """The CNCF ModelPack schema (model-spec v0.0.7), as far as it is used."""

    config: _PackInner = attrs.field(factory=_PackInner)
    descriptor: _PackDescriptor = attrs.field(factory=_PackDescriptor)
    modelfs: _ModelFs = attrs.field(factory=_ModelFs)


def decode_manifest(data: bytes) -> Manifest:
    """Read an OCI image manifest.

    Raises:
        MalformedArtifactError: not JSON, not a manifest, or beyond :data:`MAX_DOCUMENT` bytes or
            :data:`MAX_LAYERS` layers; the message names the field.
        UnsupportedFormatError: it is an index or a manifest list.
    """
    what = "manifest"
    document = _load(data, what)
    if document.get("mediaType") in _INDEX_MEDIA_TYPES or ("manifests" in document and "config" not in document):
        raise UnsupportedFormatError("this is an index of several manifests, not a model: indexes are not supported")
    return _structure(document, Manifest, what)


def decode_config(data: bytes) -> ModelConfig:
    """Read a model config in whichever schema it is written, whatever its media type says.

    Raises:
        MalformedArtifactError: not JSON, not a config, or beyond :data:`MAX_DOCUMENT` bytes.
    """
    what = "model config"
    document = _load(data, what)
    if is_modelpack_config(document):
        return _from_modelpack(_structure(document, _PackConfig, what))
    docker = _structure(document, _DockerConfig, what)
    inner = attrs.asdict(docker.config, recurse=False)
    return ModelConfig(**inner, created=docker.descriptor.created, diff_ids=docker.rootfs.diff_ids)


def is_modelpack_config(document: Mapping[str, Any]) -> bool:
    """Whether a config document follows ModelPack's schema, judged by the keys only ModelPack has.

    The media type cannot tell: repackaging tools are known to leave a ModelPack config under a Docker type.
    """
    config, descriptor = document.get("config"), document.get("descriptor")
    return (
        "modelfs" in document
        or (isinstance(config, dict) and "paramSize" in config)
        or (isinstance(descriptor, dict) and "createdAt" in descriptor)
    )


def _from_modelpack(pack: _PackConfig) -> ModelConfig:
    # ModelPack has one size for people, and it serves as both of ours; it has no context size.
    return ModelConfig(
        format=pack.config.format.lower(),
        quantization=pack.config.quantization,
        parameters=pack.config.parameters,
        architecture=pack.config.architecture,
        size=pack.config.parameters,
        created=pack.descriptor.created,
        diff_ids=pack.modelfs.diff_ids,
    )


def _load(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_DOCUMENT:
        raise MalformedArtifactError(f"malformed {what}: {len(data)} bytes, at most {MAX_DOCUMENT} are allowed")
    if len(data) > _MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise MalformedArtifactError(f"malformed {what}: more than {_MAX_VALUES} values")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise MalformedArtifactError(f"malformed {what}: not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise MalformedArtifactError(f"malformed {what}: expected an object, found {_name_of(document)}")
    return document


def _structure(document: dict[str, Any], cls: type[_T], what: str) -> _T:
    try:
        return _CONVERTER.structure(document, cls)
    except (BaseValidationError, DmrError, ValueError) as exc:
        problems = transform_error(exc, format_exception=_explain)
        shown = "; ".join(problems[:_SHOWN_PROBLEMS])
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise MalformedArtifactError(f"malformed {what}: {shown}{more}") from exc


def _explain(exc: BaseException, cls: type | None) -> str:
    if isinstance(exc, DmrError):
        text = exc.message
    else:
        text = str(exc) if isinstance(exc, ValueError) else format_exception(exc, cls)
    return text if len(text) <= _MAX_PROBLEM else f"{text[:_MAX_PROBLEM]}…"


def _mismatch(expected: str, value: object) -> ValueError:
    return ValueError(f"expected {expected}, found {_name_of(value)}")


def _name_of(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _strict(expected: type[_T], name: str) -> Callable[[Any, Any], _T]:
    """A hook that takes a primitive as it is. ``bool`` is a kind of ``int`` to Python, not to JSON."""

    def take(value: Any, _: Any) -> _T:
        if type(value) is not expected:
            raise _mismatch(name, value)
        return value

    return take


def _bounded_list(value: Any, hint: Any) -> tuple[Any, ...]:
    """Only a list is a list; cattrs would take a string apart into its characters, and name every bad entry of many."""
    if not isinstance(value, list):
        raise _mismatch("a list", value)
    if len(value) > MAX_LAYERS:
        raise ValueError(f"expected at most {MAX_LAYERS} entries, found {len(value)}")
    (entry, _) = get_args(hint)
    structure, built = _CONVERTER.get_structure_hook(entry), []
    for number, item in enumerate(value):
        try:
            built.append(structure(item, entry))
        except (BaseValidationError, DmrError, ValueError) as exc:
            exc.add_note(IterableValidationNote(f"Structuring {hint} @ index {number}", number, entry))
            raise IterableValidationError(f"While structuring {hint}", [exc], hint) from exc
    return tuple(built)


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _strings(value: Any, _: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    for key, item in value.items():
        if item is not None and not isinstance(item, str):
            raise ValueError(f"expected a string at {key[:100]!r}, found {_name_of(item)}")
    return {key: item for key, item in value.items() if item is not None}


def _digest(value: Any, _: Any) -> Digest:
    if not isinstance(value, str):
        raise _mismatch("a digest", value)
    return Digest.parse(value)


def _size(value: Any, _: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_INT64:
        raise ValueError(f"expected a size in bytes, found {str(value)[:40]}")
    return value


def _context_size(value: Any, _: Any) -> int:
    if type(value) is not int or abs(value) > _MAX_INT32:
        raise ValueError(f"expected a 32-bit number, found {str(value)[:40]}")
    return value


def _media_type(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise _mismatch("a string", value)
    if len(value) > _MAX_MEDIA_TYPE:
        raise ValueError(f"expected a media type, found {len(value)} characters")
    return value


def _manifest_type(value: Any, hint: Any) -> str:
    return _media_type(value, hint) or MANIFEST_MEDIA_TYPE


_CONVERTER: Final = make_converter()


def _register(cls: type, **renamed: Any) -> None:
    """Structure ``cls`` from an object; ``null`` fields count as absent, so that defaults apply."""
    structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, _CONVERTER, **renamed)

    def take(value: Any, target: Any) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        return structure({key: item for key, item in value.items() if item is not None}, target)

    _CONVERTER.register_structure_hook(cls, take)


_CONVERTER.register_structure_hook(str, _strict(str, "a string"))
_CONVERTER.register_structure_hook(int, _strict(int, "a number"))
_CONVERTER.register_structure_hook(bool, _strict(bool, "a boolean"))
_CONVERTER.register_structure_hook(Digest, _digest)
_CONVERTER.register_structure_hook_func(lambda hint: hint == Mapping[str, str], _strings)
_CONVERTER.register_structure_hook_func(_is_tuple, _bounded_list)

# The order matters: a class takes over the hooks of its fields when it is registered.
_register(
    Descriptor,
    media_type=override(rename="mediaType", struct_hook=_media_type),
    size=override(struct_hook=_size),
)
_register(
    Manifest,
    media_type=override(rename="mediaType", struct_hook=_manifest_type),
    artifact_type=override(rename="artifactType", struct_hook=_media_type),
)
_register(_DockerInner, context_size=override(struct_hook=_context_size))
_register(_DockerDescriptor)
_register(_RootFs)
_register(_DockerConfig)
_register(_PackInner, parameters=override(rename="paramSize"))
_register(_PackDescriptor, created=override(rename="createdAt"))
_register(_ModelFs, diff_ids=override(rename="diffIds"))
_register(_PackConfig)
