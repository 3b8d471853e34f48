"""Making a model artifact out of files.

The bytes that come out are those the reference packager writes for the same files, so a model has one
identity whoever packaged it. Where its behaviour cannot be wanted we differ: times are in UTC, and a
file that is cut off or is not what its name says is refused instead of being packaged unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from dmr_core.domain.artifact import (
    CONFIG_MODELPACK,
    CONFIG_V01,
    CONFIG_V02,
    MODELPACK_ARTIFACT_TYPE,
    Artifact,
    Descriptor,
    Format,
    LayerType,
    Manifest,
    ModelConfig,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_for, encode_manifest, file_annotations, go_time, go_time_ns
from dmr_core.domain.files import Shard, layer_type, modelpack_layer_type, weights_format
from dmr_core.domain.paths import RelativePath
from dmr_core.domain.quantities import safetensors_size
from dmr_core.domain.repackage import MAX_CONTEXT_SIZE, Schema, check_context_size
from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata

__all__ = [
    "MAX_CONTEXT_SIZE",
    "BuiltArtifact",
    "ExtraFiles",
    "Hashed",
    "ModelDirectory",
    "PackageRequest",
    "PackagingService",
    "Schema",
    "WeightsFile",
]

_HASHED_AT_ONCE: Final = 4
_NORMAL_MODE: Final = 0o644
_LORA: Final = "LoRA"

Hashed = Callable[[Path, int, int | None], None]
"""Told a file, how many of its bytes are hashed, and how many there are; ``None`` until that is known."""


@attrs.frozen(kw_only=True)
class WeightsFile:
    """One file of weights, or any one of the shards of one. Its extension says the format.

    ``expected`` is what the caller takes it for; another format is refused then.
    """

    path: Path
    expected: Format | None = None


@attrs.frozen(kw_only=True)
class ModelDirectory:
    """A directory that holds a model: every visible file below it becomes a layer."""

    path: Path


@attrs.frozen(kw_only=True)
class ExtraFiles:
    """Files beside the weights. ``epoch``, which knows its zone, replaces the time of every file, and 0644 its mode."""

    licenses: tuple[Path, ...] = ()
    chat_template: Path | None = None
    mmproj: Path | None = None
    loras: tuple[Path, ...] = ()
    epoch: datetime | None = None


@attrs.frozen(kw_only=True)
class PackageRequest(ExtraFiles):
    """What to package. ``created`` is aware of its zone; ``epoch`` replaces it too."""

    source: WeightsFile | ModelDirectory
    created: datetime
    context_size: int | None = None
    schema: Schema = Schema.DOCKER
    allow_malformed: bool = False


@attrs.frozen(kw_only=True)
class BuiltArtifact:
    """An artifact, and where the bytes of its layers are: one file per layer, in layer order, repeats included."""

    artifact: Artifact
    files: tuple[tuple[Descriptor, Path], ...]


@attrs.frozen(kw_only=True)
class _Part:
    """A file that becomes a layer."""

    path: Path
    name: RelativePath
    media_type: LayerType


@attrs.frozen(kw_only=True)
class _Plan:
    """What the source amounts to before anything is read."""

    format: Format
    config_type: str
    parts: tuple[_Part, ...]


class PackagingService:
    """Builds artifacts from the files of a source; writes nothing."""

    def __init__(self, source: PackageSource) -> None:
        self._source = source

    async def build(self, request: PackageRequest, hashed: Hashed | None = None) -> BuiltArtifact:
        """Hash the files, read what their headers say, and describe all of it in a manifest and a config.

        Layers are the weights (of a directory: every file, in lexical order), then licences, chat
        template, projector and LoRA adapters. Cancelling leaves nothing behind.

        Raises:
            InvalidRequestError: a path is not absolute, missing or unreadable, shards are missing, there
                are no weights, two files would land on one path, or the context size is out of range or
                has no place in the schema.
            MalformedArtifactError: a weights file breaks its format or is cut off; names file and byte.
        """
        _check_options(request)
        plan = await self._plan(request)
        parts = (*plan.parts, *_extras(request))
        described = await self._describe(parts, hashed)
        if plan.config_type != CONFIG_V01 or request.schema is Schema.CNCF:
            _check_collisions(described)  # elsewhere names are not used to lay the model out
        weights = [file for file in described[: len(plan.parts)] if weights_format(file.name.text) is plan.format]
        metadata = await self._metadata(weights, plan.format, allow_malformed=request.allow_malformed)
        layers = [_layer(part, file, request) for part, file in zip(parts, described, strict=True)]
        artifact = _artifact(request, plan, metadata, layers)
        files = zip(artifact.manifest.layers, (part.path for part in parts), strict=True)
        return BuiltArtifact(artifact=artifact, files=tuple(files))

    async def extras(self, request: ExtraFiles, hashed: Hashed | None = None) -> tuple[tuple[Descriptor, Path], ...]:
        """Layers for files that are to join a model that exists, typed as Docker types them, and where their bytes are.

        Raises:
            InvalidRequestError: a path is not absolute, missing or unreadable.
        """
        _check_absolute(_extra_labels(request))
        parts = tuple(_extras(request))
        described = await self._describe(parts, hashed)
        return tuple(
            (_descriptor(part.media_type, file, request.epoch), part.path)
            for part, file in zip(parts, described, strict=True)
        )

    async def _plan(self, request: PackageRequest) -> _Plan:
        source = request.source
        if isinstance(source, ModelDirectory):
            return await self._plan_directory(source.path)
        found = weights_format(source.path.name)
        if found is None or (source.expected is not None and source.expected is not found):
            wanted = "one of .gguf, .safetensors or .dduf" if source.expected is None else f".{source.expected}"
            raise InvalidRequestError(f"{str(source.path)!r} does not end in {wanted}, which tells the format")
        shards = (source.path,) if found is Format.DDUF else await self._source.shards(source.path)
        parts = tuple(_single(path, layer_type(path.name)) for path in shards)
        return _Plan(format=found, config_type=CONFIG_V01, parts=parts)

    async def _plan_directory(self, directory: Path) -> _Plan:
        names = await self._source.walk(directory)
        found = next((fmt for name in names if (fmt := weights_format(name.text))), None)
        if found is None:
            raise InvalidRequestError(
                f"no weight files (safetensors, GGUF, or DDUF) found in directory: {str(directory)!r}"
                " (hidden files and symbolic links are left out)"
            )
        _check_shards(names, directory)
        parts = tuple(_Part(path=name.under(directory), name=name, media_type=layer_type(name.text)) for name in names)
        return _Plan(format=found, config_type=CONFIG_V02, parts=parts)

    async def _describe(self, parts: Sequence[_Part], hashed: Hashed | None) -> list[SourceFile]:
        turns = asyncio.Semaphore(_HASHED_AT_ONCE)

        async def describe(part: _Part) -> SourceFile:
            async with turns:
                read = None if hashed is None else lambda done: hashed(part.path, done, None)
                file = await self._source.describe(part.path, part.name, read)
            if hashed is not None:
                hashed(part.path, file.size, file.size)
            return file

        tasks = [asyncio.ensure_future(describe(part)) for part in parts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _metadata(self, weights: Sequence[SourceFile], fmt: Format, *, allow_malformed: bool) -> WeightsMetadata:
        try:
            found = await self._source.metadata(weights, fmt)
        except MalformedArtifactError as exc:
            if not allow_malformed:
                raise MalformedArtifactError(
                    f"{exc.message}; nothing was packaged: download or copy the file again"
                ) from exc
            found = WeightsMetadata()
        return _of_dduf(weights[0], found) if fmt is Format.DDUF else found


def _of_dduf(file: SourceFile, found: WeightsMetadata) -> WeightsMetadata:
    """What a config says of a DDUF, which as an archive of whole models has no numbers of its own."""
    pipeline = {"pipeline": found.raw["pipeline"]} if "pipeline" in found.raw else {}
    layout = {"layout": "dduf", "dduf_file": file.name.name, **pipeline}
    return WeightsMetadata(architecture="diffusers", size=safetensors_size(file.size), raw=layout)


def _check_options(request: PackageRequest) -> None:
    _check_absolute([_labelled(request.source), *_extra_labels(request)])
    if request.loras and request.schema is Schema.CNCF:
        raise InvalidRequestError("--lora is not supported with --format cncf: a CNCF ModelPack has no LoRA adapters")
    check_context_size(request.context_size, request.schema)


def _extra_labels(request: ExtraFiles) -> list[tuple[str, Path]]:
    labelled = [("license", path) for path in request.licenses]
    labelled += [("chat template", path) for path in (request.chat_template,) if path]
    labelled += [("mmproj", path) for path in (request.mmproj,) if path]
    return labelled + [(_LORA, path) for path in request.loras]


def _check_absolute(labelled: Iterable[tuple[str, Path]]) -> None:
    for label, path in labelled:
        if not path.is_absolute():
            raise InvalidRequestError(f"{label} path must be absolute. {str(path)!r} is not: give the full path")
        if label == _LORA and weights_format(path.name) is not Format.GGUF:
            raise InvalidRequestError(f"a LoRA adapter is a GGUF file, {str(path)!r} is none: convert it first")


def _labelled(source: WeightsFile | ModelDirectory) -> tuple[str, Path]:
    if isinstance(source, ModelDirectory):
        return "Safetensors directory", source.path
    return (source.expected or weights_format(source.path.name) or "weights").upper(), source.path


def _single(path: Path, media_type: LayerType) -> _Part:
    return _Part(path=path, name=RelativePath.parse(path.name), media_type=media_type)


def _extras(request: ExtraFiles) -> Iterable[_Part]:
    for path in request.licenses:
        yield _single(path, LayerType.LICENSE)
    if request.chat_template is not None:
        yield _single(request.chat_template, LayerType.CHAT_TEMPLATE)
    if request.mmproj is not None:
        yield _single(request.mmproj, LayerType.MMPROJ)
    for path in request.loras:
        yield _single(path, LayerType.LORA)


def _check_shards(names: Sequence[RelativePath], directory: Path) -> None:
    """Every shard set of weights in a directory has to be whole: a download may have been interrupted."""
    present = {name.text for name in names}
    for name in names:
        shard = Shard.of(name.name)
        if shard is None or not shard.is_consistent or weights_format(name.text) is None:
            continue
        siblings = [str(PurePosixPath(name.text).with_name(sibling)) for sibling in shard.names]
        missing = [sibling for sibling in siblings if sibling not in present]
        if missing:
            raise InvalidRequestError(
                f"incomplete shard set: found {shard.total - len(missing)} of {shard.total} shards for"
                f" {str(name.under(directory))!r}; {missing[0]!r} is missing: download or copy it too"
            )


def _check_collisions(files: Iterable[SourceFile]) -> None:
    seen: dict[str, SourceFile] = {}
    for file in files:
        first = seen.setdefault(file.name.text, file)
        if first.digest != file.digest:
            raise InvalidRequestError(
                f"{str(first.path)!r} and {str(file.path)!r} would both become {file.name.text!r} in the model:"
                " rename one of them"
            )


def _layer(part: _Part, file: SourceFile, request: PackageRequest) -> Descriptor:
    media_type = part.media_type
    if request.schema is Schema.CNCF:
        media_type = modelpack_layer_type(media_type, file.name.text)
    return _descriptor(media_type, file, request.epoch)


def _descriptor(media_type: LayerType, file: SourceFile, epoch: datetime | None) -> Descriptor:
    # What an umask or a checkout did to a file must not change what is reproducible.
    mode = file.mode if epoch is None else _NORMAL_MODE
    annotations = file_annotations(file.name.text, mode=mode, size=file.size, mtime=_mtime(file, epoch))
    return Descriptor(media_type=media_type.value, digest=file.digest, size=file.size, annotations=annotations)


def _mtime(file: SourceFile, epoch: datetime | None) -> str:
    if epoch is not None:
        return go_time(epoch)
    try:
        return go_time_ns(file.mtime_ns)
    except OverflowError as exc:
        raise InvalidRequestError(f"the time of {str(file.path)!r} lies outside the years 1 to 9999: touch it") from exc


def _artifact(request: PackageRequest, plan: _Plan, metadata: WeightsMetadata, layers: list[Descriptor]) -> Artifact:
    packed = request.schema is Schema.CNCF
    config_type = CONFIG_MODELPACK if packed else plan.config_type
    config = ModelConfig(
        format=plan.format.value,
        quantization=metadata.quantization,
        parameters=metadata.parameters,
        architecture=metadata.architecture,
        # ModelPack has one field for both, and neither the header's own keys nor a context size.
        size=metadata.parameters if packed else metadata.size,
        gguf=metadata.raw if plan.format is Format.GGUF and not packed else {},
        safetensors=metadata.raw if plan.format is Format.SAFETENSORS and not packed else {},
        diffusers=metadata.raw if plan.format is Format.DDUF and not packed else {},
        context_size=None if packed else request.context_size or metadata.context_size,
        created=go_time(request.created if request.epoch is None else request.epoch),
        diff_ids=tuple(str(layer.digest) for layer in layers),
    )
    config_bytes = encode_for(config_type, config)
    manifest = Manifest(
        config=Descriptor(media_type=config_type, digest=Digest.of(config_bytes), size=len(config_bytes)),
        layers=tuple(layers),
        artifact_type=MODELPACK_ARTIFACT_TYPE if packed else None,
    )
    return Artifact(
        manifest=manifest, manifest_bytes=encode_manifest(manifest), config=config, config_bytes=config_bytes
    )
