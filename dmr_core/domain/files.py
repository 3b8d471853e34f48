"""What a file is, judged by its name alone, and which names belong together.

The rules are those of the reference packager (its file classification, first match wins), because a
model packaged here and one packaged there must have the same layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

import attrs

from dmr_core.domain.artifact import Format, LayerType

__all__ = ["FileKind", "Shard", "classify", "layer_type", "modelpack_layer_type", "weights_format"]


class FileKind(StrEnum):
    """What a file is for. ``CONFIG`` is what an engine reads beside the weights, tokenizers included."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    DDUF = "dduf"
    CHAT_TEMPLATE = "chat_template"
    LICENSE = "license"
    CONFIG = "config"
    UNKNOWN = "unknown"


_WEIGHTS: Final = {".gguf": FileKind.GGUF, ".safetensors": FileKind.SAFETENSORS, ".dduf": FileKind.DDUF}
_LICENSE_WORDS: Final = ("license", "licence", "copying", "notice")
_CONFIG_SUFFIXES: Final = (".md", ".txt", ".json", ".vocab")
_CONFIG_NAMES: Final = ("tokenizer.model",)
_LAYERS: Final = {
    FileKind.GGUF: LayerType.GGUF,
    FileKind.SAFETENSORS: LayerType.SAFETENSORS,
    FileKind.DDUF: LayerType.DDUF,
    FileKind.CHAT_TEMPLATE: LayerType.CHAT_TEMPLATE,
    FileKind.LICENSE: LayerType.LICENSE,
    FileKind.CONFIG: LayerType.MODEL_FILE,
    FileKind.UNKNOWN: LayerType.MODEL_FILE,
}
_PACKED: Final[Mapping[str, LayerType]] = {
    **dict.fromkeys((LayerType.GGUF, LayerType.PACK_WEIGHT_GGUF), LayerType.PACK_WEIGHT),
    **dict.fromkeys((LayerType.SAFETENSORS, LayerType.PACK_WEIGHT_SAFETENSORS), LayerType.PACK_WEIGHT),
    **dict.fromkeys((LayerType.DDUF, LayerType.MMPROJ, LayerType.PACK_WEIGHT), LayerType.PACK_WEIGHT),
    **dict.fromkeys((LayerType.CHAT_TEMPLATE, LayerType.VLLM_CONFIG_TAR), LayerType.PACK_CONFIG),
    **dict.fromkeys((LayerType.MODEL_FILE, LayerType.PACK_CONFIG), LayerType.PACK_CONFIG),
    **dict.fromkeys((LayerType.LICENSE, LayerType.PACK_DOC), LayerType.PACK_DOC),
}
_FORMATS: Final = {FileKind.GGUF: Format.GGUF, FileKind.SAFETENSORS: Format.SAFETENSORS, FileKind.DDUF: Format.DDUF}
_SHARD: Final = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(?P<suffix>\.[^.]+)", re.DOTALL)


def classify(path: str) -> FileKind:
    """What the file at ``path`` is, from its last component, whatever its case; the first rule wins."""
    name = PurePosixPath(path).name.lower()
    for suffix, kind in _WEIGHTS.items():
        if name.endswith(suffix):
            return kind
    if name.endswith(".jinja") or "chat_template" in name:
        return FileKind.CHAT_TEMPLATE
    if any(word in name for word in _LICENSE_WORDS):
        return FileKind.LICENSE
    if name.endswith(_CONFIG_SUFFIXES) or name in _CONFIG_NAMES:
        return FileKind.CONFIG
    return FileKind.UNKNOWN


def layer_type(path: str) -> LayerType:
    """The media type of the layer that carries the file at ``path``."""
    return _LAYERS[classify(path)]


def modelpack_layer_type(media_type: str, path: str | None) -> LayerType:
    """The ModelPack media type for a layer of ``media_type``; its ``path`` decides where the type cannot."""
    if media_type in _PACKED:
        return _PACKED[media_type]
    name = path or ""
    if weights_format(name):
        return LayerType.PACK_WEIGHT
    is_document = classify(name) is FileKind.LICENSE or name.lower().endswith(".md")
    return LayerType.PACK_DOC if is_document else LayerType.PACK_CONFIG


def weights_format(path: str) -> Format | None:
    """The format of the weights at ``path``, ``None`` where it holds no weights."""
    return _FORMATS.get(classify(path))


@attrs.frozen(kw_only=True)
class Shard:
    """A name of the form ``<prefix>-ddddd-of-ddddd<suffix>`` (llama.cpp's and Hugging Face's convention)."""

    prefix: str
    number: int
    total: int
    suffix: str

    @classmethod
    def of(cls, name: str) -> Shard | None:
        """The shard a file name stands for, ``None`` for a file that is whole."""
        match = _SHARD.fullmatch(name)
        if match is None:
            return None
        return cls(
            prefix=match["prefix"], number=int(match["number"]), total=int(match["total"]), suffix=match["suffix"]
        )

    @property
    def is_consistent(self) -> bool:
        """Whether the number lies between one and the total."""
        return 1 <= self.number <= self.total

    def sibling(self, number: int) -> str:
        """The name of shard ``number`` of the same set."""
        return f"{self.prefix}-{number:05d}-of-{self.total:05d}{self.suffix}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the whole set, in order."""
        return tuple(self.sibling(number) for number in range(1, self.total + 1))
