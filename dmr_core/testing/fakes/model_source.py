"""A source that keeps models itself, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs

from dmr_core.domain.artifact import Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import Reference
from dmr_core.errors import ModelNotFoundError, RemoteModelNotFoundError
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials

__all__ = ["InMemoryModelSource"]


@attrs.define(eq=False)
class InMemoryModelSource(ModelSource):
    """Keeps models of ``registry`` for ``backend``. ``remote`` is what can be pulled: names and their content.

    ``appears`` is taken in by the next refresh: what somebody else brought here meanwhile.
    """

    registry: str = "kept.example"
    backend: str = "keeper"
    remote: dict[str, bytes] = attrs.field(factory=dict)
    appears: dict[str, bytes] = attrs.field(factory=dict)
    credentials: list[Credentials | None] = attrs.field(factory=list)
    refreshed: int = 0
    closed: bool = False
    _models: tuple[Model, ...] = ()
    _generation: int = 0

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return reference.registry == self.registry

    @property
    def generation(self) -> int:
        """See :class:`ModelSource`."""
        return self._generation

    def models(self) -> tuple[Model, ...]:
        """See :class:`ModelSource`."""
        return self._models

    def find(self, reference: Reference) -> Model | None:
        """See :class:`ModelSource`."""
        return next((model for model in self._models if reference.canonical in model.tags), None)

    def keep(self, name: str, content: bytes) -> Model:
        """Have a model, or give one that is here another name."""
        kept = {model.id: model for model in self._models}
        model_id = Digest.of(content)
        tags = (*kept[model_id].tags, name) if model_id in kept else (name,)
        size = len(content)
        kept[model_id] = Model(
            id=model_id,
            tags=tags,
            manifest=Manifest(config=Descriptor(media_type="", digest=model_id, size=size), layers=()),
            config=ModelConfig(),
            backend=self.backend,
        )
        self._set(tuple(kept.values()))
        return kept[model_id]

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        """See :class:`ModelSource`."""
        self.credentials.append(credentials)
        if reference.canonical not in self.remote:
            raise RemoteModelNotFoundError(str(reference))
        self.keep(reference.canonical, self.remote[reference.canonical])
        yield Progress(kind=ProgressKind.SUCCESS, message="Model pulled successfully", mode=TransferMode.PULL)

    async def refresh(self) -> None:
        """See :class:`ModelSource`."""
        self.refreshed += 1
        for name, content in self.appears.items():
            self.keep(name, content)
        self.appears.clear()

    async def untag(self, canonical: str) -> None:
        """See :class:`ModelSource`."""
        left = (
            attrs.evolve(model, tags=tuple(tag for tag in model.tags if tag != canonical)) for model in self._models
        )
        self._set(tuple(left))

    async def remove(self, model_id: Digest) -> None:
        """See :class:`ModelSource`."""
        if all(model.id != model_id for model in self._models):
            raise ModelNotFoundError(str(model_id))
        self._set(tuple(model for model in self._models if model.id != model_id))

    async def disk_usage(self) -> int:
        """See :class:`ModelSource`."""
        return sum(model.size for model in self._models)

    async def aclose(self) -> None:
        """See :class:`ModelSource`."""
        self.closed = True

    def _set(self, models: tuple[Model, ...]) -> None:
        self._models = models
        self._generation += 1
