"""NIMs are images of the Docker Engine: this source lists, pulls and removes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import attrs

from dmr_backends_nim.container import IMAGE_LABEL, FoundContainer, legacy_name
from dmr_backends_nim.docker_engine import DockerEngine, DockerError, DockerUnreachableError
from dmr_backends_nim.images import NimImage, nim_images
from dmr_backends_nim.pulling import ImagePull, find_login
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.errors import ModelInUseError, ModelNotFoundError, UpstreamError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials

__all__ = ["NO_GPU", "NO_KEY", "NimModelSource"]

NO_GPU: Final = (
    "no NVIDIA GPU was found, so the container is started without one: most NIMs are slow then, or refuse to start"
)
NO_KEY: Final = "NGC_API_KEY is not set: most NIMs need it to download their weights when they start"

_log: Final = logging.getLogger("dmr.nim")


@attrs.define(eq=False)
class NimModelSource(ModelSource):
    """The images under the prefix that one Docker Engine has, as of the last look."""

    settings: NimSettings
    context: EngineContext
    docker: DockerEngine
    _images: tuple[NimImage, ...] = ()
    _generation: int = 0
    _looking: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return self.settings.claims(reference)

    @property
    def generation(self) -> int:
        """See :class:`ModelSource`."""
        return self._generation

    def models(self) -> tuple[Model, ...]:
        """See :class:`ModelSource`."""
        return tuple(image.model for image in self._images)

    def find(self, reference: Reference) -> Model | None:
        """See :class:`ModelSource`."""
        return next((image.model for image in self._images if image.answers_to(reference)), None)

    async def refresh(self) -> None:
        """See :class:`ModelSource`."""
        async with self._looking:
            try:
                self._keep(nim_images(await self.docker.images(), self.settings))
            except (DockerUnreachableError, UpstreamError) as exc:
                _log.debug("images cannot be listed: %s", exc.message)

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncGenerator[Progress, None]:
        """See :class:`ModelSource`."""
        login, whose = await find_login(reference.registry, credentials, self.context.login, self.settings.key)
        pull = ImagePull(self.docker, reference, login, whose)
        async with aclosing(pull.lines()) as lines:
            async for line in lines:
                yield line
        await self.refresh()
        model = self.find(reference)
        if model is None:
            raise UpstreamError(f"the Docker Engine pulled {str(reference)!r}, and does not have it; try again")
        if self.context.variant != "cuda":
            yield _warning(NO_GPU)
        message = f"Using cached model: {model.config.size}" if pull.up_to_date else "Model pulled successfully"
        yield Progress(kind=ProgressKind.SUCCESS, message=message, mode=TransferMode.PULL)

    async def untag(self, canonical: str) -> None:
        """See :class:`ModelSource`."""
        await self._remove(canonical)
        await self.refresh()

    async def remove(self, model_id: Digest) -> None:
        """See :class:`ModelSource`. The containers go first; the image stays where it has names that are no NIM's."""
        image = next((image for image in self._images if image.model.id == model_id), None)
        if image is None:
            raise ModelNotFoundError(str(model_id))
        for container in await self._containers(image.model):
            await self.docker.remove(container)
        for name in image.model.tags or image.digests or (str(model_id),):
            await self._remove(name)
        await self.refresh()

    async def disk_usage(self) -> int:
        """See :class:`ModelSource`. Layers that images share count for each."""
        return sum(image.model.size for image in self._images)

    async def _containers(self, model: Model) -> list[str]:
        """IDs of the containers that were made to serve ``model``, by us or by ``docker model run``."""
        found = await self.docker.containers({"label": [f"{IMAGE_LABEL}={model.id}"]})
        ids = [str(one.get("Id")) for one in found]
        for tag in model.tags:
            known = await self.docker.container(legacy_name(_reference(tag), self.settings.prefix))
            if known is not None and FoundContainer(known).image == str(model.id):
                ids.append(FoundContainer(known).id)
        return list(dict.fromkeys(ids))

    async def _remove(self, name: str) -> None:
        try:
            await self.docker.remove_image(name)
        except DockerError as exc:
            if exc.status == 409:
                raise ModelInUseError(f"{name!r} cannot be removed: {exc.reason}") from exc
            raise

    def _keep(self, images: tuple[NimImage, ...]) -> None:
        if images == self._images:
            return
        # Whoever holds on to a model recognises it by its identity.
        known = {image.model.id: image for image in self._images}
        self._images = tuple(known[image.model.id] if known.get(image.model.id) == image else image for image in images)
        self._generation += 1


def _reference(tag: str) -> Reference:
    return parse_reference(tag, ReferencePolicy())


def _warning(message: str) -> Progress:
    return Progress(kind=ProgressKind.WARNING, message=message, mode=TransferMode.PULL)
