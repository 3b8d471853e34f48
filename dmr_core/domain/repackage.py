"""Changing a model artifact without losing what nobody asked to change.

The documents are edited as documents: keys, annotations and media types that dmr does not know come out as they
went in, and in their order (OCI image-spec, "Extensibility": implementations keep what they do not know). What is
equal in meaning but not in bytes (spacing, escapes) becomes what the packager writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import attrs

from dmr_core.domain.artifact import (
    CONFIG_MODELPACK,
    CONFIG_V01,
    CONFIG_V02,
    MODELPACK_ARTIFACT_TYPE,
    Descriptor,
    Format,
    LayerType,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import go_json
from dmr_core.domain.files import layer_type, modelpack_layer_type
from dmr_core.errors import InvalidRequestError, MalformedArtifactError

__all__ = [
    "MAX_CONTEXT_SIZE",
    "Changes",
    "Schema",
    "check_context_size",
    "repackage",
]

MAX_CONTEXT_SIZE: Final = 2**31 - 1
"""The reference reads ``context_size`` into an int32."""

_ONE_OF_A_KIND: Final = {
    LayerType.CHAT_TEMPLATE.value: (LayerType.CHAT_TEMPLATE.value,),
    LayerType.MMPROJ.value: (LayerType.MMPROJ.value, LayerType.MMPROJ_SPEC.value),
}
"""Layers of which a model has one at most: a new one takes the place of those."""
_WITHOUT_PLACE: Final = {
    LayerType.LORA.value: "LoRA adapters",
    LayerType.VLLM_CONFIG_TAR.value: "a tar archive of configuration",
    LayerType.DIR_TAR.value: "a tar archive of files",
}
_PACK_TYPES: Final = "application/vnd.cncf.model."
_DOCKER_INNER: Final = frozenset(
    ("format", "quantization", "parameters", "architecture", "size", "gguf", "safetensors", "diffusers", "context_size")
)
_PACK_INNER: Final = frozenset(("architecture", "format", "paramSize", "quantization"))

_Document = dict[str, Any]


class Schema(StrEnum):
    """Whose artifact it becomes: Docker's, or CNCF ModelPack's."""

    DOCKER = "docker"
    CNCF = "cncf"


@attrs.frozen(kw_only=True)
class Changes:
    """What is to be different. ``layers`` are new ones, typed as Docker types them; their blobs are the caller's."""

    context_size: int | None = None
    schema: Schema | None = None
    layers: tuple[Descriptor, ...] = ()


def check_context_size(size: int | None, schema: Schema) -> None:
    """Refuse a context size that no reader could take in.

    Raises:
        InvalidRequestError: it is out of range, or has no place in ``schema``.
    """
    if size is None:
        return
    if schema is Schema.CNCF:
        raise InvalidRequestError(
            "--context-size is not supported with --format cncf: "
            "the CNCF ModelPack specification does not define a context size field",
            param="context_size",
        )
    if not 1 <= size <= MAX_CONTEXT_SIZE:
        raise InvalidRequestError(
            f"context size {size} is out of range: give a number from 1 to {MAX_CONTEXT_SIZE}", param="context_size"
        )


def repackage(manifest_bytes: bytes, config_bytes: bytes, changes: Changes) -> tuple[bytes, bytes]:
    """Manifest and config with ``changes`` made; both were decoded before, so that they are known to be a model's.

    Without changes the very bytes come back, and so does the ID.

    Raises:
        InvalidRequestError: the context size is out of range or has no place; the model cannot be put in the schema.
        MalformedArtifactError: a document holds a number that cannot be kept, or is nested too deeply.
    """
    manifest, config = _load(manifest_bytes, "manifest"), _load(config_bytes, "model config")
    # The config tells, not its type: repackaging tools are known to leave ModelPack configs under Docker's type.
    before = Schema.CNCF if _is_pack(config) else Schema.DOCKER
    after = changes.schema or before
    check_context_size(changes.context_size, after)
    _check_places(manifest, changes, after)
    edit = _Edit(manifest, config)
    edit.add(changes.layers, after)
    if after is not before:
        edit.convert(after)
    if changes.context_size is not None:
        edit.set_context_size(changes.context_size)
    if not edit.changed:
        return manifest_bytes, config_bytes
    return edit.encode()


class _Edit:
    """Both documents, and whether anything in them changed."""

    def __init__(self, manifest: _Document, config: _Document) -> None:
        self.manifest = manifest
        self.config = config
        self.changed = False

    def encode(self) -> tuple[bytes, bytes]:
        config = go_json(self.config).encode()
        described = self.manifest["config"]
        described["size"], described["digest"] = len(config), str(Digest.of(config))
        if "data" in described:
            del described["data"]  # the old config, embedded (OCI image-spec, descriptor.md)
        return go_json(self.manifest).encode(), config

    def set_context_size(self, size: int) -> None:
        inner = _member(self.config, "config")
        if inner.get("context_size") != size:
            inner["context_size"] = size
            self.changed = True

    def add(self, new: Iterable[Descriptor], schema: Schema) -> None:
        layers: list[_Document] = self.manifest["layers"]
        diff_ids = self._diff_ids()
        for layer in new:
            media_type = layer.media_type
            kinds = _ONE_OF_A_KIND.get(media_type, ())
            if schema is Schema.CNCF:
                media_type = modelpack_layer_type(media_type, layer.filepath).value
            document = _layer_document(layer, media_type)
            if any(_same_layer(document, there) for there in layers):
                continue
            replaced = [number for number, there in enumerate(layers) if _takes_place(document, there, kinds)]
            for number in reversed(replaced):
                if len(diff_ids) == len(layers):
                    del diff_ids[number]
                del layers[number]
            layers.append(document)
            diff_ids.append(str(layer.digest))
            self.changed = True

    def convert(self, schema: Schema) -> None:
        self.changed = True
        diff_ids = self._diff_ids()
        if schema is Schema.CNCF:
            for layer in self.manifest["layers"]:
                layer["mediaType"] = modelpack_layer_type(layer["mediaType"], _filepath(layer)).value
            self.config = _as_pack(self.config, diff_ids)
            self.manifest["config"]["mediaType"] = CONFIG_MODELPACK
            self.manifest = _with_artifact_type(self.manifest, MODELPACK_ARTIFACT_TYPE)
            return
        fmt = Format.of(str(_member(self.config, "config").get("format") or ""))
        layers = self.manifest["layers"]
        for layer in layers:
            layer["mediaType"] = _docker_type(layer)
        self.config = _as_docker(self.config, diff_ids)
        by_kind = fmt in (Format.GGUF, Format.DDUF) and not any(_needs_its_path(layer) for layer in layers)
        self.manifest["config"]["mediaType"] = CONFIG_V01 if by_kind else CONFIG_V02
        if self.manifest.get("artifactType") == MODELPACK_ARTIFACT_TYPE:
            del self.manifest["artifactType"]

    def _diff_ids(self) -> list[Any]:
        place, name = ("modelfs", "diffIds") if _is_pack(self.config) else ("rootfs", "diff_ids")
        files = _member(self.config, place)
        if not isinstance(files.get(name), list):
            files[name] = []
        found: list[Any] = files[name]
        return found


def _load(data: bytes, what: str) -> _Document:
    try:
        document = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        raise MalformedArtifactError(f"malformed {what}: it cannot be read so that all of it is kept: {exc}") from exc
    if not isinstance(document, dict):
        raise MalformedArtifactError(f"malformed {what}: expected an object")
    return document


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _is_pack(config: _Document) -> bool:
    inner, descriptor = config.get("config"), config.get("descriptor")
    return (
        "modelfs" in config
        or (isinstance(inner, dict) and "paramSize" in inner)
        or (isinstance(descriptor, dict) and "createdAt" in descriptor)
    )


def _member(document: _Document, name: str) -> _Document:
    """The object ``name`` of a document, put there where it is missing or ``null``."""
    if not isinstance(document.get(name), dict):
        document[name] = {}
    found: _Document = document[name]
    return found


def _filepath(layer: _Document) -> str | None:
    annotations = layer.get("annotations")
    path = annotations.get("org.cncf.model.filepath") if isinstance(annotations, dict) else None
    return path if isinstance(path, str) else None


def _layer_document(layer: Descriptor, media_type: str) -> _Document:
    document: _Document = {"mediaType": media_type, "size": layer.size, "digest": str(layer.digest)}
    if layer.annotations:
        document["annotations"] = dict(sorted(layer.annotations.items()))
    return document


def _same_layer(one: _Document, other: _Document) -> bool:
    return (one["mediaType"], one["digest"], _filepath(one)) == (
        other.get("mediaType"),
        other.get("digest"),
        _filepath(other),
    )


def _takes_place(new: _Document, there: _Document, kinds: tuple[str, ...]) -> bool:
    """Whether ``there`` has to go for ``new``: it is what a model has one of, or stands at the same path."""
    path = _filepath(new)
    at_the_same_path = path is not None and path == _filepath(there) and new["mediaType"] == there.get("mediaType")
    return at_the_same_path or there.get("mediaType") in kinds


def _check_places(manifest: _Document, changes: Changes, schema: Schema) -> None:
    if schema is not Schema.CNCF:
        return
    types = [layer["mediaType"] for layer in manifest["layers"]] if changes.schema is Schema.CNCF else []
    for media_type in (*types, *(layer.media_type for layer in changes.layers)):
        if media_type in _WITHOUT_PLACE:
            raise InvalidRequestError(
                f"a CNCF ModelPack has no place for {_WITHOUT_PLACE[media_type]} ({media_type}): use --format docker"
            )
    if changes.schema is Schema.CNCF:
        for layer in manifest["layers"]:
            if _filepath(layer) is None:
                raise InvalidRequestError(
                    f"layer {layer['digest']} has no file name, which a CNCF ModelPack needs: package the files anew"
                )


def _with_artifact_type(manifest: _Document, artifact_type: str) -> _Document:
    """The manifest with its ``artifactType`` where the packager writes it: before ``config``."""
    rest = {key: value for key, value in manifest.items() if key != "artifactType"}
    changed: _Document = {}
    for key, value in rest.items():
        if key == "config":
            changed["artifactType"] = artifact_type
        changed[key] = value
    return changed


def _docker_type(layer: _Document) -> str:
    """Docker's type for a ModelPack layer; one that is neither's stays."""
    media_type: str = layer["mediaType"]
    return layer_type(_filepath(layer) or "").value if media_type.startswith(_PACK_TYPES) else media_type


def _needs_its_path(layer: _Document) -> bool:
    """Whether only a layer-per-file model can hold this layer: it is in a directory, or a file beside the weights."""
    return "/" in (_filepath(layer) or "") or layer["mediaType"] == LayerType.MODEL_FILE.value


def _as_pack(config: _Document, diff_ids: list[Any]) -> _Document:
    inner, descriptor, files = (_member(config, name) for name in ("config", "descriptor", "rootfs"))
    architecture = inner.get("architecture")
    said = {"createdAt": descriptor.get("created"), "family": architecture}
    said |= {key: value for key, value in descriptor.items() if key != "created"}
    packed = {
        "architecture": architecture,
        "format": inner.get("format"),
        "paramSize": inner.get("parameters"),
        "quantization": inner.get("quantization"),
    }
    packed |= _strangers(inner, _DOCKER_INNER)
    document: _Document = {
        "descriptor": _filled(said),
        "modelfs": {"type": "layers", "diffIds": diff_ids, **_strangers(files, frozenset(("type", "diff_ids")))},
        "config": _filled(packed),
    }
    return document | _strangers(config, frozenset(("config", "descriptor", "rootfs")))


def _as_docker(config: _Document, diff_ids: list[Any]) -> _Document:
    inner, descriptor, files = (_member(config, name) for name in ("config", "descriptor", "modelfs"))
    said = {"created": descriptor.get("createdAt")}
    derived = frozenset(("createdAt",))
    if descriptor.get("family") == inner.get("architecture"):
        derived |= {"family"}
    size = inner.get("paramSize")
    unpacked = {
        "format": inner.get("format"),
        "quantization": inner.get("quantization"),
        "parameters": size,
        "architecture": inner.get("architecture"),
        "size": size,
    }
    document: _Document = {
        "config": _filled(unpacked) | _strangers(inner, _PACK_INNER),
        "descriptor": _filled(said) | _strangers(descriptor, derived),
        "rootfs": {"type": "rootfs", "diff_ids": diff_ids, **_strangers(files, frozenset(("type", "diffIds")))},
    }
    return document | _strangers(config, frozenset(("config", "descriptor", "modelfs")))


def _strangers(document: _Document, known: frozenset[str]) -> _Document:
    return {key: value for key, value in document.items() if key not in known}


def _filled(document: _Document) -> _Document:
    return {key: value for key, value in document.items() if value not in (None, "")}
