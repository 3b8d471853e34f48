"""Model artifacts: the OCI manifest, its layers, and the model config blob.

Media types, annotations and field names are those of the model format that Docker's tools write
(config v0.1 and v0.2) and of CNCF ModelPack v1; raw bytes are kept beside the parsed values because
the identity of a model is the digest of its manifest *bytes*.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.errors import UnsupportedFormatError

__all__ = [
    "ANNOTATION_FILEPATH",
    "ANNOTATION_MEDIATYPE_UNTESTED",
    "ANNOTATION_METADATA",
    "CONFIG_MODELPACK",
    "CONFIG_V01",
    "CONFIG_V02",
    "MANIFEST_MEDIA_TYPE",
    "MODELPACK_ARTIFACT_TYPE",
    "SUPPORTED_CONFIGS",
    "Artifact",
    "Descriptor",
    "Format",
    "LayerType",
    "Manifest",
    "ModelConfig",
    "check_supported",
]

MANIFEST_MEDIA_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
MODELPACK_ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_V01: Final = "application/vnd.docker.ai.model.config.v0.1+json"
CONFIG_V02: Final = "application/vnd.docker.ai.model.config.v0.2+json"
CONFIG_MODELPACK: Final = "application/vnd.cncf.model.config.v1+json"
SUPPORTED_CONFIGS: Final = (CONFIG_V01, CONFIG_V02, CONFIG_MODELPACK)

ANNOTATION_FILEPATH: Final = "org.cncf.model.filepath"
ANNOTATION_METADATA: Final = "org.cncf.model.file.metadata+json"
ANNOTATION_MEDIATYPE_UNTESTED: Final = "org.cncf.model.file.mediatype.untested"


class LayerType(StrEnum):
    """Media types of layers, Docker's and ModelPack's."""

    GGUF = "application/vnd.docker.ai.gguf.v3"
    SAFETENSORS = "application/vnd.docker.ai.safetensors"
    DDUF = "application/vnd.docker.ai.dduf"
    MMPROJ = "application/vnd.docker.ai.mmproj"
    MMPROJ_SPEC = "application/vnd.docker.ai.gguf.v3.mmproj"
    LORA = "application/vnd.docker.ai.gguf.v3.lora"
    LICENSE = "application/vnd.docker.ai.license"
    CHAT_TEMPLATE = "application/vnd.docker.ai.chat.template.jinja"
    MODEL_FILE = "application/vnd.docker.ai.model.file"
    VLLM_CONFIG_TAR = "application/vnd.docker.ai.vllm.config.tar"
    DIR_TAR = "application/vnd.docker.ai.dir.tar"
    PACK_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
    PACK_WEIGHT_GGUF = "application/vnd.cncf.model.weight.v1.gguf"
    PACK_WEIGHT_SAFETENSORS = "application/vnd.cncf.model.weight.v1.safetensors"
    PACK_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
    PACK_DOC = "application/vnd.cncf.model.doc.v1.raw"


class Format(StrEnum):
    """How weights are stored, which decides who can serve them."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    DDUF = "dduf"

    @classmethod
    def of(cls, text: str) -> Format | None:
        """The format a config names; ``diffusers`` is the old name of ``dduf``."""
        lowered = text.lower()
        return cls.DDUF if lowered == "diffusers" else next((member for member in cls if member == lowered), None)


_WEIGHTS: Final = {
    LayerType.GGUF: Format.GGUF,
    LayerType.PACK_WEIGHT_GGUF: Format.GGUF,
    LayerType.SAFETENSORS: Format.SAFETENSORS,
    LayerType.PACK_WEIGHT_SAFETENSORS: Format.SAFETENSORS,
    LayerType.DDUF: Format.DDUF,
}


@attrs.frozen(kw_only=True)
class Descriptor:
    """An OCI descriptor; ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def filepath(self) -> str | None:
        """Where the file stood in its package; untrusted text, parse it before using it as a path."""
        return self.annotations.get(ANNOTATION_FILEPATH)


@attrs.frozen(kw_only=True)
class Manifest:
    """An OCI image manifest of a model."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST_MEDIA_TYPE
    artifact_type: str | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob the model needs: layers in manifest order, then the config."""
        return (*self.layers, self.config)

    @property
    def is_modelpack(self) -> bool:
        """Whether the artifact says it is a CNCF ModelPack."""
        return self.artifact_type == MODELPACK_ARTIFACT_TYPE or self.config.media_type == CONFIG_MODELPACK

    def weights_format(self) -> Format | None:
        """What the layers themselves say: GGUF before safetensors before DDUF."""
        found = {_WEIGHTS[LayerType(layer.media_type)] for layer in self.layers if layer.media_type in _WEIGHTS}
        return next((candidate for candidate in Format if candidate in found), None)


@attrs.frozen(kw_only=True)
class ModelConfig:
    """The model config blob, whichever schema it came in.

    ``size``, ``parameters`` and ``quantization`` are strings for people, written by whoever packaged
    the model; nothing computes with them. ``created`` is RFC 3339 text, empty when unknown.
    """

    format: str = ""
    quantization: str = ""
    parameters: str = ""
    architecture: str = ""
    size: str = ""
    gguf: Mapping[str, str] = attrs.field(factory=dict)
    safetensors: Mapping[str, str] = attrs.field(factory=dict)
    diffusers: Mapping[str, str] = attrs.field(factory=dict)
    context_size: int | None = None
    created: str = ""
    diff_ids: tuple[str, ...] = ()

    @property
    def created_unix(self) -> int:
        """``created`` in seconds since the epoch, 0 when unknown or unreadable."""
        try:
            return int(datetime.fromisoformat(self.created).timestamp()) if self.created else 0
        except (ValueError, OverflowError):
            return 0


@attrs.frozen(kw_only=True)
class Artifact:
    """A manifest and config with the exact bytes they were read from."""

    manifest: Manifest
    manifest_bytes: bytes
    config: ModelConfig
    config_bytes: bytes

    @property
    def id(self) -> Digest:
        """The model's identity: the digest of the manifest bytes."""
        return Digest.of(self.manifest_bytes)


def check_supported(manifest: Manifest) -> None:
    """Refuse artifacts that are not models, or of a newer kind.

    Raises:
        UnsupportedFormatError: with the text the stock CLI recognises.
    """
    if manifest.config.media_type not in SUPPORTED_CONFIGS:
        supported = ", ".join(f'"{name}"' for name in SUPPORTED_CONFIGS)
        raise UnsupportedFormatError(
            f'config type "{manifest.config.media_type}" is not supported (supported: {supported})'
            " - try upgrading: unsupported model config media type"
        )
