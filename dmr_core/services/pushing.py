"""Sending models to registries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final

from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import HUGGING_FACE, Reference, parse_model_id, parse_reference
from dmr_core.errors import InvalidReferenceError, NotFoundError, UnsupportedFormatError
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.registry import Credentials, Registry, RegistrySession
from dmr_core.services.catalog import CatalogService
from dmr_core.services.shared_work import SharedWork
from dmr_core.services.transfer import ProgressMeter, at_most

__all__ = ["PushingService"]

_CHECKS_AT_ONCE: Final = 8
_LAYERS_AT_ONCE: Final = 4
_MOUNTS_TRIED: Final = 3  # each is a request that may be in vain
_MIB: Final = 1024 * 1024


class PushingService:
    """Pushes models under one of their names. The same push asked twice at a time is one upload."""

    def __init__(self, *, store: ModelStore, registry: Registry, catalog: CatalogService, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._catalog = catalog
        self._clock = clock
        self._work: SharedWork[tuple[str, Digest, Credentials | None]] = SharedWork("push")

    async def push(self, text: str, credentials: Credentials | None = None) -> AsyncGenerator[Progress, None]:
        """Push the model ``text`` names to where that name points; the last line is a success.

        Raises (while iterating):
            InvalidReferenceError, ModelNotFoundError, UnsupportedFormatError: before anything is sent.
            UnauthorizedError, DigestMismatchError, RegistryError: the registry's answer.
            ShuttingDownError: the service ends, and the push with it.
        """
        if parse_model_id(text) is not None and "/" not in text:
            raise InvalidReferenceError(text, "an ID does not say where to push to; tag the model and push the tag")
        reference = parse_reference(text, self._catalog.policy)
        model = await self._catalog.find_stored(text)
        if reference.registry == HUGGING_FACE:
            raise UnsupportedFormatError(f"{str(reference)!r} is on Hugging Face, which this version cannot push to")
        key = (str(reference), model.id, credentials)
        lines = self._work.follow(key, lambda: self._lines(model, reference, credentials))
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def aclose(self) -> None:
        """Cancel every push; whoever listens gets a ``ShuttingDownError``."""
        await self._work.aclose()

    async def _lines(
        self, model: Model, reference: Reference, credentials: Credentials | None
    ) -> AsyncGenerator[Progress, None]:
        blobs = list({blob.digest: blob for blob in model.manifest.blobs}.values())
        total = sum(blob.size for blob in blobs)
        async with (
            self._store.lease((model.id, *(blob.digest for blob in blobs))),
            self._registry.session(reference, push=True, credentials=credentials) as session,
        ):
            manifest = await self._manifest_bytes(model)
            missing = await _missing(session, blobs)
            for blob in blobs:
                if blob.digest not in missing:
                    yield _there(blob, total)
            meter = ProgressMeter(TransferMode.PUSH, "Uploaded", self._clock)
            meter.total = total
            work = asyncio.ensure_future(self._send_all(session, model, reference, missing, meter))
            async with aclosing(meter.follow(work)) as lines:
                async for line in lines:
                    yield line
            await session.push_manifest(manifest, model.manifest.media_type)
        yield Progress(kind=ProgressKind.SUCCESS, message="Model pushed successfully", mode=TransferMode.PUSH)

    async def _manifest_bytes(self, model: Model) -> bytes:
        content = await self._store.read_manifest(model.id)
        if content is None:
            raise NotFoundError(f"the manifest of {model.name!r} is missing from the store")
        return content

    async def _send_all(
        self,
        session: RegistrySession,
        model: Model,
        reference: Reference,
        missing: Mapping[Digest, Descriptor],
        meter: ProgressMeter,
    ) -> None:
        """Layers, then the config, so that nobody finds a config whose layers are not there."""
        sources = self._mount_sources(model, reference, missing)

        config = model.manifest.config.digest
        layers = [blob for digest, blob in missing.items() if digest != config]
        await at_most(
            _LAYERS_AT_ONCE,
            [partial(self._send, session, layer, sources.get(layer.digest, ()), meter) for layer in layers],
        )
        if config in missing:
            await self._send(session, missing[config], sources.get(config, ()), meter)

    async def _send(
        self, session: RegistrySession, blob: Descriptor, sources: Iterable[str], meter: ProgressMeter
    ) -> None:
        for source in sources:
            if await session.mount_blob(blob, source):
                break
        else:
            await session.push_blob(
                blob,
                lambda offset: self._store.read_blob(blob.digest, offset),
                lambda sent: meter.advance(LayerProgress(blob.digest, blob.size, sent)),
            )
        meter.advance(LayerProgress(blob.digest, blob.size, blob.size))

    def _mount_sources(
        self, model: Model, reference: Reference, blobs: Mapping[Digest, Descriptor]
    ) -> dict[Digest, tuple[str, ...]]:
        """Repositories of the same registry that may have a blob: those that a model here with that blob is named after.

        Only names of that very registry, so that it learns of no other.
        """
        prefix = f"{reference.registry}/"
        found: dict[Digest, dict[str, None]] = {}
        for known in (model, *self._store.models()):
            names = [tag.removeprefix(prefix).rpartition(":")[0] for tag in known.tags if tag.startswith(prefix)]
            repositories = [name for name in names if name != reference.repository]
            if repositories:
                for blob in known.manifest.blobs:
                    if blob.digest in blobs:
                        found.setdefault(blob.digest, {}).update(dict.fromkeys(repositories))
        return {digest: tuple(names)[:_MOUNTS_TRIED] for digest, names in found.items()}


async def _missing(session: RegistrySession, blobs: Iterable[Descriptor]) -> dict[Digest, Descriptor]:
    """Those of ``blobs`` that the registry has not, in their order."""
    blobs = list(blobs)
    there: set[Digest] = set()

    async def check(blob: Descriptor) -> None:
        if await session.has_blob(blob):
            there.add(blob.digest)

    await at_most(_CHECKS_AT_ONCE, [partial(check, blob) for blob in blobs])
    return {blob.digest: blob for blob in blobs if blob.digest not in there}


def _there(blob: Descriptor, total: int) -> Progress:
    return Progress(
        kind=ProgressKind.PROGRESS,
        message=f"Already exists: {blob.size / _MIB:.2f} MB",
        mode=TransferMode.PUSH,
        total=total,
        layer=LayerProgress(blob.digest, blob.size, blob.size),
    )
