"""Making an artifact out of files of a hub whose bytes are in the store already.

Everything in it comes from the commit: its time is that of every file and of the artifact, and modes are
0644. So a commit has one identity, whenever and wherever it is pulled.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Final

import attrs

from dmr_core.domain.artifact import Artifact, Descriptor, Format, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_for, encode_manifest, file_annotations, go_time
from dmr_core.domain.hub_repository import HubRevision
from dmr_core.domain.hub_selection import SelectedFile, Selection
from dmr_core.domain.model import Model
from dmr_core.domain.paths import RelativePath
from dmr_core.ports.package_source import WeightsMetadata

__all__ = ["ANNOTATION_REVISION", "ANNOTATION_SOURCE", "build_artifact", "is_from", "layer_of", "repository_of"]

# OCI image-spec, annotations.md, "Pre-Defined Annotation Keys". Always the public address, also where a
# mirror was asked, so that the identity does not depend on who answered.
ANNOTATION_SOURCE: Final = "org.opencontainers.image.source"
ANNOTATION_REVISION: Final = "org.opencontainers.image.revision"
_ADDRESS: Final = "https://huggingface.co/"
_MODE: Final = 0o644


@attrs.frozen(kw_only=True)
class _Origin:
    """Where a stored model says it comes from."""

    repository: str
    commit: str

    @classmethod
    def of(cls, model: Model) -> _Origin | None:
        annotations = model.manifest.annotations
        source = annotations.get(ANNOTATION_SOURCE, "")
        if not source.startswith(_ADDRESS):
            return None
        return cls(repository=source.removeprefix(_ADDRESS), commit=annotations.get(ANNOTATION_REVISION, ""))


def repository_of(model: Model) -> str | None:
    """How the hub spells the repository a stored model was pulled from, ``None`` where it was not."""
    origin = _Origin.of(model)
    return origin.repository if origin else None


def is_from(model: Model, revision: HubRevision, selection: Selection) -> bool:
    """Whether a stored model is this selection of this commit, which never changes."""
    origin = _Origin.of(model)
    if origin != _Origin(repository=revision.repository, commit=revision.commit):
        return False
    stored = [(layer.media_type, layer.filepath, layer.size) for layer in model.manifest.layers]
    return stored == [(file.media_type.value, file.name.text, file.file.size) for file in selection.files]


def layer_of(selected: SelectedFile, digest: Digest, revision: HubRevision) -> Descriptor:
    """The layer that a file becomes."""
    annotations = file_annotations(
        selected.name.text, mode=_MODE, size=selected.file.size, mtime=go_time(revision.modified)
    )
    return Descriptor(
        media_type=selected.media_type.value, digest=digest, size=selected.file.size, annotations=annotations
    )


def build_artifact(
    revision: HubRevision, selection: Selection, digests: Mapping[RelativePath, Digest], metadata: WeightsMetadata
) -> Artifact:
    """The artifact of a selection; ``digests`` are those of its files, by their paths in the repository."""
    layers = tuple(layer_of(selected, digests[selected.file.path], revision) for selected in selection.files)
    config = ModelConfig(
        format=selection.format.value,
        quantization=metadata.quantization,
        parameters=metadata.parameters,
        architecture=metadata.architecture,
        size=metadata.size,
        gguf=metadata.raw if selection.format is Format.GGUF else {},
        safetensors=metadata.raw if selection.format is Format.SAFETENSORS else {},
        context_size=metadata.context_size,
        created=go_time(revision.modified.astimezone(UTC)),
        diff_ids=tuple(str(layer.digest) for layer in layers),
    )
    config_bytes = encode_for(selection.config_type, config)
    manifest = Manifest(
        config=Descriptor(media_type=selection.config_type, digest=Digest.of(config_bytes), size=len(config_bytes)),
        layers=layers,
        annotations={ANNOTATION_REVISION: revision.commit, ANNOTATION_SOURCE: _ADDRESS + revision.repository},
    )
    return Artifact(
        manifest=manifest, manifest_bytes=encode_manifest(manifest), config=config, config_bytes=config_bytes
    )
