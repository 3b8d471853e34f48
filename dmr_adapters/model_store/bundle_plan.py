"""What a bundle of a model holds, computed from its manifest alone.

There is one resolver for the first use and every later one, so that an engine never gets a
different answer from a bundle that is already there. Names and places are the reference runner's:
layers that carry a role are given the name of their role; artifacts with one layer per file are
laid out as their annotations say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

import attrs

from dmr_core.domain.artifact import CONFIG_V02, Descriptor, Format, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError

__all__ = ["BundlePlan", "PlannedFile", "plan_bundle"]

_PACK_PREFIX: Final = "application/vnd.cncf.model."
_WEIGHTS: Final[Mapping[str, Format]] = {
    LayerType.GGUF: Format.GGUF,
    LayerType.PACK_WEIGHT_GGUF: Format.GGUF,
    LayerType.SAFETENSORS: Format.SAFETENSORS,
    LayerType.PACK_WEIGHT_SAFETENSORS: Format.SAFETENSORS,
    LayerType.DDUF: Format.DDUF,
}
_PROJECTORS: Final = (LayerType.MMPROJ, LayerType.MMPROJ_SPEC)
_TEMPLATE_SUFFIX: Final = ".jinja"


@attrs.frozen
class PlannedFile:
    """A layer at a place; ``size`` in bytes."""

    path: RelativePath
    digest: Digest
    size: int


@attrs.frozen(kw_only=True)
class BundlePlan:
    """Files to link and archives to unpack, and which files an engine is told about.

    ``archives`` and ``extras`` come after ``files``, in this order, and never replace what is there.
    """

    files: tuple[PlannedFile, ...]
    archives: tuple[Descriptor, ...] = ()
    extras: tuple[PlannedFile, ...] = ()
    gguf: RelativePath | None = None
    safetensors: RelativePath | None = None
    dduf: RelativePath | None = None
    mmproj: RelativePath | None = None
    chat_template: RelativePath | None = None
    loras: tuple[RelativePath, ...] = ()


class _Files:
    """Files by place, each place once."""

    def __init__(self) -> None:
        self._by_path: dict[RelativePath, PlannedFile] = {}
        self._directories: set[str] = set()

    def __iter__(self) -> Iterator[PlannedFile]:
        return iter(self._by_path.values())

    def __contains__(self, path: RelativePath) -> bool:
        return path in self._by_path

    def put(self, path: RelativePath, layer: Descriptor) -> RelativePath:
        """Place a layer. The same layer twice is once.

        Raises:
            MalformedArtifactError: something else is at this place, or one is a directory to the other.
        """
        there = self._by_path.get(path)
        if there is not None and there.digest != layer.digest:
            raise MalformedArtifactError(f"filepath collision: two different layers are both to be {path.text!r}")
        parents = [str(parent) for parent in PurePosixPath(path.text).parents]
        blocking = next((parent for parent in parents if RelativePath(parent) in self._by_path), None)
        if path.text in self._directories or blocking is not None:
            raise MalformedArtifactError(
                f"filepath collision: {blocking or path.text!r} is to be both a file and a directory"
            )
        self._by_path[path] = PlannedFile(path, layer.digest, layer.size)
        self._directories.update(parents)
        return path


def plan_bundle(manifest: Manifest, config: ModelConfig) -> BundlePlan:
    """Lay out the bundle of a model.

    Raises:
        MalformedArtifactError: unsafe or clashing file names, or no weights.
    """
    per_file = manifest.config.media_type == CONFIG_V02 or manifest.is_modelpack
    # Tools that repackage may leave ModelPack layers in a manifest that no longer says so.
    per_file = per_file or any(layer.media_type.startswith(_PACK_PREFIX) for layer in manifest.layers)
    # And old ones annotate nothing, so that roles are all there is to go by.
    per_file = per_file and any(layer.filepath is not None for layer in manifest.layers)
    formats = _formats(manifest, config)
    plan = _plan_by_path(manifest, formats) if per_file else _plan_by_role(manifest, formats)
    if plan.gguf is plan.safetensors is plan.dduf is None:
        raise MalformedArtifactError("no supported model weights found (expected GGUF, safetensors, or diffusers/DDUF)")
    return plan


def _plan_by_role(manifest: Manifest, formats: Sequence[Format | None]) -> BundlePlan:
    """Config v0.1: a layer is what its media type says, and is named after that."""
    files = _Files()
    weights = _weights_by_role(manifest, formats, files)
    projectors = [layer for layer in manifest.layers if layer.media_type in _PROJECTORS]
    templates = [layer for layer in manifest.layers if layer.media_type == LayerType.CHAT_TEMPLATE]
    tars = [layer for layer in manifest.layers if layer.media_type == LayerType.VLLM_CONFIG_TAR]
    mmproj = files.put(RelativePath("model.mmproj"), projectors[0]) if len(projectors) == 1 else None
    template = files.put(RelativePath("template.jinja"), templates[0]) if len(templates) == 1 else None
    adapters = [layer for layer in manifest.layers if layer.media_type == LayerType.LORA]
    # In a directory of their own: the reference takes the first GGUF beside the model for the model.
    numbered = enumerate(adapters, start=1)
    loras = tuple(files.put(RelativePath(f"lora/{number:05d}.gguf"), layer) for number, layer in numbered)
    extras = _Files()
    for layer in manifest.layers:
        if layer.media_type == LayerType.MODEL_FILE and layer.filepath is not None:
            path = RelativePath.parse(layer.filepath)
            if path not in files and path not in extras:
                extras.put(path, layer)
    return BundlePlan(
        files=tuple(files),
        archives=(
            *(tars if len(tars) == 1 else ()),
            *(layer for layer in manifest.layers if layer.media_type == LayerType.DIR_TAR),
        ),
        extras=tuple(extras),
        gguf=weights.get(Format.GGUF),
        safetensors=weights.get(Format.SAFETENSORS),
        dduf=weights.get(Format.DDUF),
        mmproj=mmproj,
        chat_template=template or _template_among(file.path for file in extras),
        loras=loras,
    )


def _weights_by_role(manifest: Manifest, formats: Sequence[Format | None], files: _Files) -> dict[Format, RelativePath]:
    """Place the weights of the one format that counts; the first shard stands for all."""
    chosen = next((candidate for candidate in Format if candidate in formats), None)
    if chosen is None:
        return {}
    layers = [layer for layer, found in zip(manifest.layers, formats, strict=True) if found is chosen]
    if chosen is Format.DDUF:
        del layers[1:]
    numbered = enumerate(layers, start=1)
    placed = [files.put(_name_by_role(layer, chosen, number, len(layers)), layer) for number, layer in numbered]
    return {chosen: placed[0]}


def _name_by_role(layer: Descriptor, weights: Format, number: int, count: int) -> RelativePath:
    if weights is Format.DDUF:
        return RelativePath(f"{layer.digest.hex}.dduf")
    if weights is Format.SAFETENSORS and layer.filepath is not None:
        return RelativePath.parse(layer.filepath)
    shard = "" if count == 1 else f"-{number:05d}-of-{count:05d}"
    return RelativePath(f"model{shard}.{weights}")


def _plan_by_path(manifest: Manifest, formats: Sequence[Format | None]) -> BundlePlan:
    """Config v0.2 and ModelPack: every layer is a file at the place it is annotated with."""
    files = _Files()
    weights: dict[Format, RelativePath] = {}
    projectors: list[RelativePath] = []
    templates: list[RelativePath] = []
    loras: list[RelativePath] = []
    paths: list[RelativePath] = []
    for layer, found in zip(manifest.layers, formats, strict=True):
        if layer.filepath is None:
            continue
        path = files.put(RelativePath.parse(layer.filepath), layer)
        paths.append(path)
        if layer.media_type in _PROJECTORS or (found and "mmproj" in path.name.lower()):
            projectors.append(path)
        elif found:
            weights.setdefault(found, path)
        elif layer.media_type == LayerType.CHAT_TEMPLATE and path.name.endswith(_TEMPLATE_SUFFIX):
            templates.append(path)
        elif layer.media_type == LayerType.LORA:
            loras.append(path)
    return BundlePlan(
        files=tuple(files),
        gguf=weights.get(Format.GGUF),
        safetensors=weights.get(Format.SAFETENSORS),
        dduf=weights.get(Format.DDUF),
        mmproj=projectors[0] if projectors else None,
        chat_template=templates[0] if templates else _template_among(paths),
        loras=tuple(dict.fromkeys(loras)),
    )


def _template_among(paths: Iterable[RelativePath]) -> RelativePath | None:
    """The chat template among files without a role: ModelPack has no media type for one."""
    found = [path for path in paths if "/" not in path.text and path.name.endswith(_TEMPLATE_SUFFIX)]
    return next((path for path in found if path.name == "chat_template.jinja"), found[0] if found else None)


def _formats(manifest: Manifest, config: ModelConfig) -> tuple[Format | None, ...]:
    """What format of weights each layer is; ModelPack's generic type leaves it to the config, else to file names."""
    suffixes = {f".{weights}": weights for weights in Format}
    names = [PurePosixPath(layer.filepath or "").suffix.lower() for layer in manifest.layers]
    generic = Format.of(config.format) or next((suffixes[name] for name in names if name in suffixes), None)
    return tuple(
        generic if layer.media_type == LayerType.PACK_WEIGHT else _WEIGHTS.get(layer.media_type)
        for layer in manifest.layers
    )
