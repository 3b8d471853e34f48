"""Which files of a Hub repository make up the model that a reference means.

GGUF: one quantization, its projector, chat template and licences. safetensors: one set of weights and
everything an engine reads beside them. Files that run code when they are loaded are never taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from dmr_core.domain.artifact import CONFIG_V01, CONFIG_V02, Format, LayerType
from dmr_core.domain.files import FileKind, Shard, classify, layer_type, weights_format
from dmr_core.domain.hub_quantization import is_projector, preferred_projector, quantized, select_quantized
from dmr_core.domain.hub_reference import HubReference
from dmr_core.domain.hub_repository import HubFile
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError, RemoteModelNotFoundError, UnsupportedFormatError

__all__ = [
    "INDEX",
    "SelectedFile",
    "Selection",
    "choose_format",
    "safetensors_index",
    "select_gguf",
    "select_safetensors",
    "shards_listed",
]

INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = "model.safetensors"
_SENTENCEPIECE: Final = (".tiktoken", ".model", ".spm", ".bpe")
_RUNNABLE: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".py", ".sh", ".so", ".dll")
# Parts of a model that Sentence Transformers keeps in directories of their own, "1_Pooling"; and its
# templates beside the first one (transformers, "Chat templates").
_PART_DIRECTORY: Final = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,40}|additional_chat_templates")
# Not weights of the model itself: the same again in the format of its makers, and what was trained on top.
_OTHER_WEIGHTS: Final = ("consolidated", "adapter_")
_NAMED: Final = 5


@attrs.frozen(kw_only=True)
class SelectedFile:
    """A file that becomes a layer, and what it is called in the model."""

    file: HubFile
    name: RelativePath
    media_type: LayerType


@attrs.frozen(kw_only=True)
class Selection:
    """The files of a model in the order of its layers. ``notes`` are lines for people on what was chosen, and why."""

    format: Format
    config_type: str
    files: tuple[SelectedFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[SelectedFile, ...]:
        """Those that hold the weights, projectors aside."""
        own = {Format.GGUF: LayerType.GGUF, Format.SAFETENSORS: LayerType.SAFETENSORS}[self.format]
        return tuple(file for file in self.files if file.media_type is own)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(file.file.size for file in self.files)


def choose_format(files: Sequence[HubFile], reference: HubReference) -> Format:
    """Which format a reference means where a repository may have several.

    A selector names a format (``gguf``, ``safetensors``), else it is a GGUF's. Without one it is the
    safetensors model at the top of the repository, else GGUF.

    Raises:
        UnsupportedFormatError: there are no weights that could be served.
        RemoteModelNotFoundError: there are none of the format the selector means.
    """
    has_gguf = any(weights_format(file.name) is Format.GGUF and not is_projector(file) for file in _visible(files))
    has_safetensors = bool(_own_weights(files))
    selector = reference.selector.lower()
    if not has_gguf and not has_safetensors:
        raise UnsupportedFormatError(
            f"no model weight files (GGUF or SafeTensors) found in repository {reference.repository!r}"
            + _explanation(files)
        )
    if selector == Format.SAFETENSORS or (not selector and has_safetensors):
        if has_safetensors:
            return Format.SAFETENSORS
        raise RemoteModelNotFoundError(str(reference), "the repository holds GGUF files only")
    if not has_gguf:
        raise RemoteModelNotFoundError(
            str(reference),
            "the repository holds safetensors only, so there is no quantization to choose: leave the tag out",
        )
    return Format.GGUF


def select_gguf(files: Sequence[HubFile], reference: HubReference) -> Selection:
    """One quantization and what belongs to it.

    Raises:
        RemoteModelNotFoundError, MalformedArtifactError: there is no such one, or not all of it.
    """
    visible = _visible(files)
    ggufs = [file for file in visible if weights_format(file.name) is Format.GGUF]
    selector = "" if reference.selector.lower() == Format.GGUF else reference.selector
    choices = quantized(ggufs)
    chosen = select_quantized(choices, attrs.evolve(reference, selector=selector))
    notes = []
    if chosen.label or len(choices) > 1:
        why = " (default)" if not selector and len(choices) > 1 else ""
        notes.append(f"Selected {chosen.label} quantization{why}" if chosen.label else f"Selected {chosen.stem}{why}")
    selected = [_flat(file, LayerType.GGUF) for file in chosen.files]
    top = [file for file in visible if not file.directories]
    selected += [_flat(file, LayerType.LICENSE) for file in top if classify(file.name) is FileKind.LICENSE]
    templates = [file for file in top if file.name.endswith(".jinja")]
    template = min(templates, key=lambda file: (file.name != "chat_template.jinja", file.name), default=None)
    if template is not None:
        selected.append(_flat(template, LayerType.CHAT_TEMPLATE))
    projectors = [file for file in ggufs if is_projector(file)]
    projector = preferred_projector(projectors, chosen.files[0])
    if projector is not None:
        selected.append(_flat(projector, LayerType.MMPROJ))
        if len(projectors) > 1:
            notes.append(f"Selected projector {projector.path}")
    return Selection(format=Format.GGUF, config_type=CONFIG_V01, files=tuple(selected), notes=tuple(notes))


def safetensors_index(files: Iterable[HubFile]) -> HubFile | None:
    """The file that lists the shards of a safetensors model, where there is one."""
    return next((file for file in files if file.path.text == INDEX), None)


def shards_listed(content: bytes) -> frozenset[str]:
    """The names of the files an index names (Hugging Face transformers, ``save_pretrained``).

    Raises:
        MalformedArtifactError: it is no such index.
    """
    try:
        weight_map = json.loads(content)["weight_map"]
        names = frozenset(weight_map.values())
        unsafe = [name for name in names if RelativePath.parse(name).text != name]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise MalformedArtifactError(f"{INDEX!r} is no index of shards: download it again, or tell its author") from exc
    if unsafe or not names:
        raise MalformedArtifactError(f"{INDEX!r} lists no usable files")
    return names


def select_safetensors(files: Sequence[HubFile], reference: HubReference, listed: frozenset[str] | None) -> Selection:
    """The weights, those that the index lists where there is one, and every file an engine reads beside them.

    Raises:
        MalformedArtifactError: a shard is missing.
    """
    own = _own_weights(files)
    weights = _listed(own, listed, reference) if listed is not None else _without_index(own, reference)
    chosen = {file.path for file in weights}
    chosen |= {file.path for file in files if _is_part(file) and weights_format(file.name) is Format.SAFETENSORS}
    chosen |= {file.path for file in files if _is_beside(file, {file.name for file in weights})}
    ordered = sorted((file for file in files if file.path in chosen), key=_walk_order)
    selected = tuple(SelectedFile(file=file, name=file.path, media_type=layer_type(file.path.text)) for file in ordered)
    notes = _left_out(files, chosen)
    gguf = any(weights_format(file.name) is Format.GGUF and not is_projector(file) for file in _visible(files))
    if gguf and not reference.selector:
        notes = (*notes, "The repository has GGUF files too: the tag gguf, or a quantization, selects those")
    return Selection(format=Format.SAFETENSORS, config_type=CONFIG_V02, files=selected, notes=notes)


def _visible(files: Iterable[HubFile]) -> list[HubFile]:
    return [file for file in files if not file.is_hidden]


def _own_weights(files: Iterable[HubFile]) -> list[HubFile]:
    """The safetensors at the top, unless they only repeat or extend others."""
    top = [file for file in _visible(files) if weights_format(file.name) is Format.SAFETENSORS and not file.directories]
    models = [file for file in top if not file.name.lower().startswith(_OTHER_WEIGHTS)]
    return models or [file for file in top if file.name.lower().startswith("consolidated")]


def _listed(own: Sequence[HubFile], names: frozenset[str], reference: HubReference) -> list[HubFile]:
    found = [file for file in own if file.path.text in names]
    missing = sorted(names - {file.path.text for file in found})
    if missing:
        raise MalformedArtifactError(
            f"{str(reference)!r} is not complete: {INDEX} lists {len(names)} files, and {missing[0]!r} is not at"
            " the top of the repository"
        )
    return found


def _without_index(own: Sequence[HubFile], reference: HubReference) -> list[HubFile]:
    """The whole file if there is one, else everything, shard sets complete."""
    whole = [file for file in own if file.path.text == _WHOLE]
    if whole:
        return whole
    present = {file.name for file in own}
    for file in own:
        shard = Shard.of(file.name)
        missing = next((name for name in shard.names if name not in present), None) if shard else None
        if missing is not None:
            raise MalformedArtifactError(f"{str(reference)!r} is not complete: {missing!r} is missing")
    return list(own)


def _is_part(file: HubFile) -> bool:
    """Whether it lies in one of the directories that belong to a model."""
    return len(file.directories) == 1 and bool(_PART_DIRECTORY.fullmatch(file.directories[0]))


def _is_beside(file: HubFile, weights: set[str]) -> bool:
    """Whether it is one of the small files an engine reads: configuration, tokenizer, template, licence."""
    if file.is_hidden or (file.directories and not _is_part(file)):
        return False
    name = file.name.lower()
    if name.endswith(".index.json"):  # an index of weights is of use only with those
        return file.name == INDEX and bool(weights) and weights != {_WHOLE}
    if name.endswith(_RUNNABLE):
        return False
    kinds = {FileKind.CONFIG, FileKind.LICENSE, FileKind.CHAT_TEMPLATE}
    return classify(name) in kinds or name.endswith(_SENTENCEPIECE)


def _left_out(files: Iterable[HubFile], chosen: set[RelativePath]) -> tuple[str, ...]:
    """A line that names what could have been expected to be part of the model."""
    others = [
        file.path.text
        for file in files
        if file.path not in chosen
        and not file.is_hidden
        and (file.name.lower().endswith(_RUNNABLE) or weights_format(file.name) is Format.SAFETENSORS)
    ]
    if not others:
        return ()
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return (f"Left out, as duplicates or because loading them runs code: {', '.join(others[:_NAMED])}{more}",)


def _explanation(files: Iterable[HubFile]) -> str:
    visible = _visible(files)
    if any(file.name.lower().endswith(_RUNNABLE[:8]) for file in visible):
        return ": it holds PyTorch files, which run code when they are loaded; look for a GGUF or safetensors version of it"
    nested = next((file for file in visible if weights_format(file.name) is Format.SAFETENSORS), None)
    if nested is not None:
        return f": {nested.path.text!r} is not the weights of a whole model at the top of the repository"
    return "" if visible else ": it is empty"


def _flat(file: HubFile, media_type: LayerType) -> SelectedFile:
    """A file of a model that is laid out by roles: there is nothing but its own name."""
    return SelectedFile(file=file, name=RelativePath(file.name), media_type=media_type)


def _walk_order(file: HubFile) -> tuple[bytes, ...]:
    """The order in which a directory is packaged: by the bytes of each component."""
    return tuple(part.encode() for part in file.path.text.split("/"))
