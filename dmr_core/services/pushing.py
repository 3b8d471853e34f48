"""Sending models to registries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final

from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.model import Model
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import HUGGING_FACE, parse_model_id, parse_reference
from dmr_core.errors import InvalidReferenceError, NotFoundError, UnsupportedFormatError
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.registry import Credentials, Registry, RegistrySession
from dmr_core.services.catalog import CatalogService
from dmr_core.services.transfer import ProgressMeter, at_most

__all__ = ["PushingService"]

_LAYERS_AT_ONCE: Final = 4


class PushingService:
    """Pushes models under one of their names."""

    def __init__(self, *, store: ModelStore, registry: Registry, catalog: CatalogService, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._catalog = catalog
        self._clock = clock

    async def push(self, text: str, credentials: Credentials | None = None) -> AsyncGenerator[Progress, None]:
        """Push the model ``text`` names to where that name points; the last line is a success.

        Raises (while iterating):
            InvalidReferenceError, ModelNotFoundError: before anything is sent.
            UnauthorizedError, RegistryError: the registry's answer.
        """
        if parse_model_id(text) is not None and "/" not in text:
            raise InvalidReferenceError(text, "an ID does not say where to push to; tag the model and push the tag")
        reference = parse_reference(text, self._catalog.policy)
        model = await self._catalog.find_fresh(text)
        if reference.registry == HUGGING_FACE:
            raise UnsupportedFormatError(f"{str(reference)!r} is on Hugging Face, which this version cannot push to")
        manifest_bytes = await self._manifest_bytes(model)
        meter = ProgressMeter(TransferMode.PUSH, "Uploaded", self._clock)
        blobs = list({blob.digest: blob for blob in model.manifest.blobs}.values())
        meter.total = sum(blob.size for blob in blobs)
        async with self._registry.session(reference, push=True, credentials=credentials) as session:
            sends = [partial(self._send, session, blob, meter) for blob in blobs]
            work = asyncio.ensure_future(at_most(_LAYERS_AT_ONCE, sends))
            async with aclosing(meter.follow(work)) as lines:
                async for line in lines:
                    yield line
            await session.push_manifest(manifest_bytes, model.manifest.media_type)
        yield Progress(kind=ProgressKind.SUCCESS, message="Model pushed successfully", mode=TransferMode.PUSH)

    async def _manifest_bytes(self, model: Model) -> bytes:
        content = await self._store.read_manifest(model.id)
        if content is None:
            raise NotFoundError(f"the manifest of {model.name!r} is missing from the store")
        return content

    async def _send(self, session: RegistrySession, blob: Descriptor, meter: ProgressMeter) -> None:
        if not await session.has_blob(blob):
            await session.push_blob(
                blob,
                lambda offset: self._store.read_blob(blob.digest, offset),
                lambda sent: meter.advance(LayerProgress(blob.digest, blob.size, sent)),
            )
        meter.advance(LayerProgress(blob.digest, blob.size, blob.size))
