"""Images of a Docker Engine as models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from dmr_backends_nim.docker_engine import BACKEND
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.artifact import Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.quantities import safetensors_size
from dmr_core.domain.reference import Reference
from dmr_core.errors import InvalidRequestError

__all__ = ["NimImage", "nim_images"]

_CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"


@attrs.frozen
class NimImage:
    """An image under the prefix, as a model. ``digests`` are the names with a digest it was pulled by."""

    model: Model
    digests: tuple[str, ...]

    def answers_to(self, reference: Reference) -> bool:
        """Whether ``reference`` names it."""
        if reference.digest is not None:
            return f"{reference.name}@{reference.digest}" in self.digests or reference.digest == self.model.id
        return reference.canonical in self.model.tags


def nim_images(listed: Iterable[Mapping[str, Any]], settings: NimSettings) -> tuple[NimImage, ...]:
    """Those of the images in an engine's list that are NIMs, by name; entries that make no sense are passed over."""
    found = []
    for entry in listed:
        tags = tuple(sorted(name for name in _names(entry.get("RepoTags")) if settings.has(name)))
        digests = tuple(sorted(name for name in _names(entry.get("RepoDigests")) if settings.has(name)))
        if not tags and not digests:
            continue
        try:
            image_id = Digest.parse(str(entry.get("Id")))
        except InvalidRequestError:
            continue
        found.append(NimImage(_model(image_id, tags, _count(entry.get("Size")), _count(entry.get("Created"))), digests))
    return tuple(sorted(found, key=lambda image: (image.model.name, image.model.id)))


def _model(image_id: Digest, tags: tuple[str, ...], size: int, created: int) -> Model:
    return Model(
        id=image_id,
        tags=tags,
        manifest=Manifest(config=Descriptor(media_type=_CONFIG_TYPE, digest=image_id, size=size), layers=()),
        config=ModelConfig(
            format=BACKEND,
            size=safetensors_size(size),
            created=datetime.fromtimestamp(created, UTC).isoformat() if 0 < created < 1 << 40 else "",
        ),
        backend=BACKEND,
    )


def _names(value: object) -> list[str]:
    names = value if isinstance(value, list) else []
    return [name for name in names if isinstance(name, str) and "<none>" not in name]


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
