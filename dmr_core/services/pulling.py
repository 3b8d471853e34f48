"""Bringing models in from registries and other sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Final

import attrs

from dmr_core.domain.artifact import Artifact, Descriptor, check_supported
from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import HUGGING_FACE, Reference, ReferencePolicy, parse_reference
from dmr_core.errors import ModelNotFoundError, ShuttingDownError, UnsupportedFormatError
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.registry import BlobReader, Credentials, Registry, RegistrySession
from dmr_core.services.fetching import FetchingService
from dmr_core.services.shared_work import SharedWork
from dmr_core.services.transfer import ProgressMeter, at_most, take

__all__ = ["PullingService"]

_LAYERS_AT_ONCE: Final = 8  # the gate of the host decides how many of them receive


@attrs.define(eq=False)
class _Received:
    """Bytes that one pull got from elsewhere. The first number of a layer is what an earlier attempt left."""

    bytes: int = 0
    _here: dict[Digest, int] = attrs.field(factory=dict)

    def note(self, layer: LayerProgress) -> None:
        """Note how far a layer is."""
        self.bytes += max(0, layer.current - self._here.get(layer.id, layer.current))
        self._here[layer.id] = layer.current


class PullingService:
    """Pulls models. The same reference asked twice is one download; its last listener leaving cancels it."""

    def __init__(
        self,
        *,
        store: ModelStore,
        registry: Registry,
        policy: ReferencePolicy,
        clock: Clock,
        fetching: FetchingService | None = None,
        sources: Sequence[ModelSource] = (),
        max_pulls: int = 2,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._policy = policy
        self._clock = clock
        self._fetching = fetching or FetchingService(store=store, clock=clock)
        self._sources = tuple(sources)
        self._metrics = metrics
        self._slots = asyncio.Semaphore(max_pulls)
        self._shared: SharedWork[tuple[str, Credentials | None]] = SharedWork("pull")

    def remote(self, reference: Reference) -> AbstractAsyncContextManager[RegistrySession]:
        """The registry's side of a reference, to look at without pulling.

        Raises:
            UnsupportedFormatError: the reference is not one of a registry.
        """
        if reference.registry == HUGGING_FACE or any(source.claims(reference) for source in self._sources):
            raise UnsupportedFormatError(f"{str(reference)!r} does not come from an OCI registry")
        return self._registry.session(reference)

    async def pull(self, text: str, credentials: Credentials | None = None) -> AsyncGenerator[Progress, None]:
        """Pull what ``text`` names; lines of progress, the last of them a success.

        Raises (at once):
            InvalidReferenceError: ``text`` is no reference.
            ShuttingDownError: no more pulls are begun.
        Raises (while iterating):
            RemoteModelNotFoundError, UnauthorizedError, RegistryError: the registry's answer.
            UnsupportedFormatError, MalformedArtifactError, DigestMismatchError: what it sent.
            StorageFullError, StoreUnwritableError: the store's.
        """
        reference = parse_reference(text, self._policy)
        if self._shared.is_closed:
            raise ShuttingDownError("the service is shutting down")
        return self._shared.follow((str(reference), credentials), lambda: self._measured(reference, credentials))

    async def aclose(self) -> None:
        """Cancel every pull; what was received stays for the next one."""
        await self._shared.aclose()

    async def _measured(self, reference: Reference, credentials: Credentials | None) -> AsyncGenerator[Progress, None]:
        started, outcome, received = self._clock.monotonic(), "cancelled", _Received()
        try:
            async with aclosing(self._lines(received, reference, credentials)) as lines:
                async for line in lines:
                    yield line
            outcome = "completed"
        except Exception:
            outcome = "failed"
            raise
        finally:
            if self._metrics is not None:
                seconds = self._clock.monotonic() - started
                self._metrics.pulled(outcome=outcome, received=received.bytes, seconds=seconds)

    async def _lines(
        self, received: _Received, reference: Reference, credentials: Credentials | None
    ) -> AsyncGenerator[Progress, None]:
        for source in self._sources:
            if source.claims(reference):
                async for line in self._in_turn(source.pull(reference, credentials)):
                    if line.layer is not None:
                        received.note(line.layer)
                    yield line
                return
        if reference.registry == HUGGING_FACE:
            raise UnsupportedFormatError(
                f"{str(reference)!r} is on Hugging Face, which this version cannot pull from; pull an OCI artifact instead"
            )
        async with self._registry.session(reference, credentials=credentials) as session:
            remote = await session.manifest()
            present = self._store.by_id(remote.digest)
            if present is not None and await self._tagged(present.id, reference):
                yield _success(f"Using cached model: {present.config.size}")
                return
            check_supported(remote.manifest)
            config, config_bytes = await session.config(remote.manifest.config)
            artifact = Artifact(
                manifest=remote.manifest, manifest_bytes=remote.content, config=config, config_bytes=config_bytes
            )
            async for line in self._in_turn(self._take_in(received, session, artifact, reference)):
                yield line
        yield _success("Model pulled successfully")

    async def _tagged(self, model_id: Digest, reference: Reference) -> bool:
        """Tag a model that is here; ``False`` where another process has just removed it."""
        try:
            await self._store.tag(model_id, reference)
        except ModelNotFoundError:
            return False
        return True

    async def _in_turn(self, lines: AsyncIterator[Progress]) -> AsyncGenerator[Progress, None]:
        """``lines``, once it is this pull's turn; until then a line that says what it is waiting for."""
        waiting = Progress(
            kind=ProgressKind.PROGRESS, message="Waiting for another pull to finish", mode=TransferMode.PULL
        )
        async with aclosing(take(self._clock, self._slots, waiting)) as wait:
            async for line in wait:
                yield line
        try:
            async for line in lines:
                yield line
        finally:
            self._slots.release()
            if isinstance(lines, AsyncGenerator):
                await lines.aclose()

    async def _take_in(
        self, received: _Received, session: RegistrySession, artifact: Artifact, reference: Reference
    ) -> AsyncGenerator[Progress, None]:
        meter = ProgressMeter(TransferMode.PULL, "Downloaded", self._clock)
        layers = list({layer.digest: layer for layer in artifact.manifest.layers}.values())
        meter.total = sum(layer.size for layer in layers)
        async with self._store.lease(blob.digest for blob in artifact.manifest.blobs):
            await self._store.require_space(layers)
            fetches = [partial(self._fetch, received, session, layer, reference.registry, meter) for layer in layers]
            work = asyncio.ensure_future(at_most(_LAYERS_AT_ONCE, fetches))
            async with aclosing(meter.follow(work)) as lines:
                async for line in lines:
                    yield line
            model = await self._store.add(artifact)
            await self._store.tag(model.id, reference)

    async def _fetch(
        self, received: _Received, session: RegistrySession, layer: Descriptor, host: str, meter: ProgressMeter
    ) -> None:
        def advance(done: int) -> None:
            progress = LayerProgress(layer.digest, layer.size, done)
            received.note(progress)
            meter.advance(progress)

        def open_blob(offset: int, end: int | None) -> AbstractAsyncContextManager[BlobReader]:
            return session.read_blob(layer, offset, end)

        await self._fetching.fetch(
            layer, open_blob, host=host, advance=advance, distrust=lambda: session.distrust(layer)
        )


def _success(message: str) -> Progress:
    return Progress(kind=ProgressKind.SUCCESS, message=message, mode=TransferMode.PULL)
