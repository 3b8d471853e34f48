"""Docker Hub through mirrors: each is asked in order, then the Hub itself.

The rules are the reference's (``MODEL_RUNNER_REGISTRY_MIRRORS``): pulls of Docker Hub alone, ``https`` where no scheme is
given, a path in front of ``/v2`` is kept, and ``ns=docker.io`` tells the mirror whose repository is meant.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import attrs
from yarl import URL

from dmr_adapters.registry.endpoint import Endpoint
from dmr_core.domain.artifact import Descriptor, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.errors import DmrError, RegistryError, RemoteModelNotFoundError
from dmr_core.ports.registry import BlobReader, BlobSource, RegistrySession, RemoteManifest

__all__ = ["Candidate", "MirroredSession", "parse_mirrors"]

_LOG: Final = logging.getLogger(__name__)
_NAMESPACE: Final = "docker.io"
_T = TypeVar("_T")


def parse_mirrors(texts: Iterable[str]) -> tuple[Endpoint, ...]:
    """Where these mirrors are served; one that is no address is left out with a warning."""
    found = []
    for text in filter(None, (text.strip() for text in texts)):
        endpoint = _parse(text)
        if endpoint is None:
            _LOG.warning("MODEL_RUNNER_REGISTRY_MIRRORS: %r is no address of a mirror; left out", text.split("@")[-1])
        else:
            found.append(endpoint)
    return tuple(found)


def _parse(text: str) -> Endpoint | None:
    try:
        url = URL(text if "://" in text else f"https://{text}")
        usable = url.scheme in {"http", "https"} and url.host and url.port and url.raw_user is None
    except ValueError:
        return None
    if not usable or url.raw_query_string or url.raw_fragment or url.raw_password is not None:
        return None
    prefix = url.raw_path.rstrip("/").removesuffix("/v2")
    return Endpoint(url.authority, url.origin(), prefix=prefix, namespace=_NAMESPACE)


@attrs.frozen(eq=False)
class Candidate:
    """Somebody who may have the repository: a mirror or the registry itself; ``name`` is for people."""

    name: str
    session: RegistrySession


class MirroredSession(RegistrySession):
    """A repository that several have. Whoever fails comes last from then on; the last error is what is told."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = list(candidates)
        self._distrusted: dict[Digest, set[str]] = {}
        self._served: dict[Digest, str] = {}

    async def manifest(self) -> RemoteManifest:
        """See :class:`RegistrySession`. A model that one of them does not have is looked for at the others."""
        return await self._first("the manifest", lambda session: session.manifest())

    async def config(self, descriptor: Descriptor) -> tuple[ModelConfig, bytes]:
        """See :class:`RegistrySession`."""
        return await self._first("the config", lambda session: session.config(descriptor))

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """See :class:`RegistrySession`. One that breaks off is not the first to be asked for the rest."""
        return self._read_blob(descriptor, offset, end)

    def distrust(self, descriptor: Descriptor) -> bool:
        """See :class:`RegistrySession`."""
        liar = self._served.get(descriptor.digest)
        if liar is None:
            return False
        _LOG.warning("mirror %s: the bytes of %s are not those of its digest", liar, descriptor.digest)
        self._distrusted.setdefault(descriptor.digest, set()).add(liar)
        return bool(self._trusted(descriptor))

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """See :class:`RegistrySession`."""
        return await self._candidates[-1].session.has_blob(descriptor)

    async def mount_blob(self, descriptor: Descriptor, source: str) -> bool:
        """Nothing is pushed through mirrors."""
        raise RegistryError(f"cannot mount {descriptor.digest} from {source!r} through mirrors")

    async def push_blob(self, descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
        """Nothing is pushed through mirrors."""
        raise RegistryError(f"cannot push {descriptor.digest} through mirrors")

    async def push_manifest(self, content: bytes, media_type: str) -> None:
        """Nothing is pushed through mirrors."""
        raise RegistryError("cannot push a manifest through mirrors")

    async def _first(self, what: str, ask: Callable[[RegistrySession], Awaitable[_T]]) -> _T:
        missing: RemoteModelNotFoundError | None = None
        last: DmrError = RegistryError("there is nobody to ask")
        for candidate in tuple(self._candidates):
            try:
                return await ask(candidate.session)
            except DmrError as exc:
                self._fail(candidate, what, exc)
                missing = exc if isinstance(exc, RemoteModelNotFoundError) else missing
                last = exc
        raise missing or last

    @asynccontextmanager
    async def _read_blob(self, descriptor: Descriptor, offset: int, end: int | None) -> AsyncIterator[BlobReader]:
        async with AsyncExitStack() as stack:
            candidate, reader = await self._open(stack, descriptor, offset, end)
            self._served[descriptor.digest] = candidate.name
            try:
                yield reader
            except RegistryError as exc:
                self._fail(candidate, f"blob {descriptor.digest}", exc)
                raise

    async def _open(
        self, stack: AsyncExitStack, descriptor: Descriptor, offset: int, end: int | None
    ) -> tuple[Candidate, BlobReader]:
        last: DmrError = RegistryError(f"nobody is left to ask for blob {descriptor.digest}")
        for candidate in self._trusted(descriptor):
            try:
                opened = candidate.session.read_blob(descriptor, offset, end)
                return candidate, await stack.enter_async_context(opened)
            except DmrError as exc:
                self._fail(candidate, f"blob {descriptor.digest}", exc)
                last = exc
        raise last

    def _trusted(self, descriptor: Descriptor) -> tuple[Candidate, ...]:
        distrusted = self._distrusted.get(descriptor.digest, ())
        return tuple(candidate for candidate in self._candidates if candidate.name not in distrusted)

    def _fail(self, candidate: Candidate, what: str, error: DmrError) -> None:
        if len(self._candidates) > 1:
            _LOG.info("%s of %s: %s; asking the next", what, candidate.name, error.message)
        self._candidates.remove(candidate)
        self._candidates.append(candidate)
