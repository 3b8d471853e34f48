"""Bringing models in from registries and other sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Final

import attrs

from dmr_core.domain.artifact import Artifact, Descriptor, check_supported
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import HUGGING_FACE, Reference, ReferencePolicy, parse_reference
from dmr_core.errors import (
    DigestMismatchError,
    DmrError,
    RegistryUnreachableError,
    ShuttingDownError,
    UnsupportedFormatError,
)
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import BlobWriter, ModelStore
from dmr_core.ports.registry import Credentials, Registry, RegistrySession
from dmr_core.services.transfer import ProgressMeter, at_most

__all__ = ["PullingService"]

_PROGRESS: Final = 1024 * 1024
_LAYERS_AT_ONCE: Final = 4


@attrs.define(eq=False)
class _Pull:
    """One running download, however many wait for it. ``lines`` is kept so that a late listener sees the last state."""

    key: tuple[str, Credentials | None]
    task: asyncio.Task[None] | None = None
    listeners: set[asyncio.Queue[Progress | None]] = attrs.field(factory=set)
    latest: dict[Digest | None, Progress] = attrs.field(factory=dict)
    error: BaseException | None = None
    received: int = 0

    def tell(self, line: Progress) -> None:
        """Show every listener a line; one that reads slowly keeps only what its queue holds."""
        self.latest[line.layer.id if line.layer else None] = line
        for queue in self.listeners:
            if line.kind is not ProgressKind.PROGRESS or queue.qsize() < 1000:
                queue.put_nowait(line)

    def end(self) -> None:
        """Tell the listeners that no more will come."""
        for queue in self.listeners:
            queue.put_nowait(None)


class PullingService:
    """Pulls models. The same reference asked twice is one download; its last listener leaving cancels it."""

    def __init__(
        self,
        *,
        store: ModelStore,
        registry: Registry,
        policy: ReferencePolicy,
        clock: Clock,
        sources: Sequence[ModelSource] = (),
        max_pulls: int = 2,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._policy = policy
        self._clock = clock
        self._sources = tuple(sources)
        self._metrics = metrics
        self._slots = asyncio.Semaphore(max_pulls)
        self._running: dict[tuple[str, Credentials | None], _Pull] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

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
        Raises (while iterating):
            RemoteModelNotFoundError, UnauthorizedError, RegistryError: the registry's answer.
            UnsupportedFormatError, MalformedArtifactError, DigestMismatchError: what it sent.
            StorageFullError, StoreUnwritableError: the store's.
        """
        reference = parse_reference(text, self._policy)
        key = (str(reference), credentials)
        pull = self._running.get(key)
        if pull is None:
            if self._closed:
                raise ShuttingDownError("the service is shutting down")
            pull = self._running[key] = _Pull(key)
            pull.task = asyncio.get_running_loop().create_task(
                self._work(pull, reference, credentials), name=f"pull-{reference}"
            )
            self._tasks.add(pull.task)
            pull.task.add_done_callback(self._tasks.discard)
        return self._listen(pull)

    async def aclose(self) -> None:
        """Cancel every pull; what was received stays for the next one."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, pull: _Pull) -> AsyncGenerator[Progress, None]:
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        for earlier in pull.latest.values():
            queue.put_nowait(earlier)
        pull.listeners.add(queue)
        if pull.task is None or pull.task.done():
            queue.put_nowait(None)
        try:
            while (line := await queue.get()) is not None:
                yield line
        finally:
            pull.listeners.discard(queue)
            if not pull.listeners and pull.task is not None and not pull.task.done():
                self._give_up(pull)
                pull.task.cancel()
        if pull.error is not None:
            raise pull.error

    def _give_up(self, pull: _Pull) -> None:
        """Let whoever asks next start anew instead of joining a pull that is ending."""
        if self._running.get(pull.key) is pull:
            del self._running[pull.key]

    async def _work(self, pull: _Pull, reference: Reference, credentials: Credentials | None) -> None:
        started, outcome = self._clock.monotonic(), "failed"
        try:
            async with self._slots:
                started = self._clock.monotonic()
                lines = self._lines(pull, reference, credentials)
                async with aclosing(lines):
                    async for line in lines:
                        pull.tell(line)
            outcome = "completed"
        except DmrError as exc:
            pull.error = exc
        except asyncio.CancelledError:
            outcome = "cancelled"
            pull.error = ShuttingDownError(f"the pull of {str(reference)!r} was cancelled")
            raise
        except Exception as exc:  # a bug must reach the listeners, not only the log of a task
            pull.error = exc
        finally:
            self._give_up(pull)
            pull.end()
            if self._metrics is not None:
                seconds = self._clock.monotonic() - started
                self._metrics.pulled(outcome=outcome, received=pull.received, seconds=seconds)

    async def _lines(
        self, pull: _Pull, reference: Reference, credentials: Credentials | None
    ) -> AsyncGenerator[Progress, None]:
        for source in self._sources:
            if source.claims(reference):
                async for line in source.pull(reference, credentials):
                    yield line
                return
        if reference.registry == HUGGING_FACE:
            raise UnsupportedFormatError(
                f"{str(reference)!r} is on Hugging Face, which this version cannot pull from; pull an OCI artifact instead"
            )
        meter = ProgressMeter(TransferMode.PULL, "Downloaded", self._clock)
        async with self._registry.session(reference, credentials=credentials) as session:
            remote = await session.manifest()
            present = self._store.by_id(remote.digest)
            if present is not None:
                await self._store.tag(present.id, reference)
                yield _success(f"Using cached model: {present.config.size}")
                return
            check_supported(remote.manifest)
            config, config_bytes = await session.config(remote.manifest.config)
            layers = list({layer.digest: layer for layer in remote.manifest.layers}.values())
            meter.total = sum(layer.size for layer in layers)
            fetches = [partial(self._fetch, pull, session, layer, meter) for layer in layers]
            work = asyncio.ensure_future(at_most(_LAYERS_AT_ONCE, fetches))
            async with aclosing(meter.follow(work)) as lines:
                async for line in lines:
                    yield line
            artifact = Artifact(
                manifest=remote.manifest, manifest_bytes=remote.content, config=config, config_bytes=config_bytes
            )
            await self._add(artifact, reference)
        yield _success("Model pulled successfully")

    async def _add(self, artifact: Artifact, reference: Reference) -> Model:
        model = await self._store.add(artifact)
        return await self._store.tag(model.id, reference)

    async def _fetch(self, pull: _Pull, session: RegistrySession, layer: Descriptor, meter: ProgressMeter) -> None:
        # A blob that is here already is a writer at its end; one of the wrong length is written anew.
        async with self._store.write_blob(layer) as writer:
            while True:
                before = writer.offset
                try:
                    await self._receive(pull, session, layer, writer, meter)
                    break
                except RegistryUnreachableError:
                    # As long as a noticeable part comes in each time, another try is worth it.
                    if writer.offset - before < min(_PROGRESS, layer.size - before):
                        raise
            if writer.offset < layer.size:
                raise DigestMismatchError(str(layer.digest), f"only {writer.offset} of {layer.size} bytes")
            await writer.commit()
        meter.advance(LayerProgress(layer.digest, layer.size, layer.size))

    async def _receive(
        self, pull: _Pull, session: RegistrySession, layer: Descriptor, writer: BlobWriter, meter: ProgressMeter
    ) -> None:
        if writer.offset >= layer.size:
            return
        async with session.read_blob(layer, writer.offset) as reader:
            if reader.offset != writer.offset:
                await writer.restart()
            meter.advance(LayerProgress(layer.digest, layer.size, writer.offset))
            async for chunk in reader.chunks:
                await writer.write(chunk)
                pull.received += len(chunk)
                meter.advance(LayerProgress(layer.digest, layer.size, writer.offset))


def _success(message: str) -> Progress:
    return Progress(kind=ProgressKind.SUCCESS, message=message, mode=TransferMode.PULL)
