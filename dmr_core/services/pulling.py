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
from dmr_core.errors import DmrError, ModelNotFoundError, ShuttingDownError, UnsupportedFormatError
from dmr_core.ports.clock import Clock
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.registry import BlobReader, Credentials, Registry, RegistrySession
from dmr_core.services.fetching import FetchingService
from dmr_core.services.transfer import ProgressMeter, at_most, take

__all__ = ["PullingService"]

_LAYERS_AT_ONCE: Final = 8  # the gate of the host decides how many of them receive


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
                here: dict[Digest, int] = {}
                async for line in self._in_turn(source.pull(reference, credentials)):
                    if line.layer is not None:  # the first number of a file is what an earlier attempt left
                        before = here.setdefault(line.layer.id, line.layer.current)
                        pull.received += max(0, line.layer.current - before)
                        here[line.layer.id] = line.layer.current
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
            async for line in self._in_turn(self._take_in(pull, session, artifact, reference)):
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
        self, pull: _Pull, session: RegistrySession, artifact: Artifact, reference: Reference
    ) -> AsyncGenerator[Progress, None]:
        meter = ProgressMeter(TransferMode.PULL, "Downloaded", self._clock)
        layers = list({layer.digest: layer for layer in artifact.manifest.layers}.values())
        meter.total = sum(layer.size for layer in layers)
        async with self._store.lease(blob.digest for blob in artifact.manifest.blobs):
            await self._store.require_space(layers)
            fetches = [partial(self._fetch, pull, session, layer, reference.registry, meter) for layer in layers]
            work = asyncio.ensure_future(at_most(_LAYERS_AT_ONCE, fetches))
            async with aclosing(meter.follow(work)) as lines:
                async for line in lines:
                    yield line
            model = await self._store.add(artifact)
            await self._store.tag(model.id, reference)

    async def _fetch(
        self, pull: _Pull, session: RegistrySession, layer: Descriptor, host: str, meter: ProgressMeter
    ) -> None:
        here: int | None = None

        def advance(done: int) -> None:
            nonlocal here
            if here is not None:  # the first number is what an earlier attempt left
                pull.received += max(0, done - here)
            here = done
            meter.advance(LayerProgress(layer.digest, layer.size, done))

        def open_blob(offset: int, end: int | None) -> AbstractAsyncContextManager[BlobReader]:
            return session.read_blob(layer, offset, end)

        await self._fetching.fetch(layer, open_blob, host=host, advance=advance)


def _success(message: str) -> Progress:
    return Progress(kind=ProgressKind.SUCCESS, message=message, mode=TransferMode.PULL)
