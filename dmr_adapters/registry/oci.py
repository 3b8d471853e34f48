"""The registry port over the OCI distribution protocol (distribution-spec v1.1)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import attrs

from dmr_adapters.registry.answer import ErrorReader
from dmr_adapters.registry.auth import Authorizer, TokenCache
from dmr_adapters.registry.blob_download import open_blob
from dmr_adapters.registry.blob_upload import BlobUploads, UploadPolicy
from dmr_adapters.registry.client import HttpClient, Timeouts, read_bounded, translated
from dmr_adapters.registry.credentials import CredentialStore
from dmr_adapters.registry.endpoint import HUB_HOSTS, Endpoint, EndpointPolicy
from dmr_adapters.registry.guard import Resolver, resolve
from dmr_adapters.registry.manifest_upload import send_manifest
from dmr_adapters.registry.mirrored import Candidate, MirroredSession
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_adapters.registry.upload_place import told_digest
from dmr_core.domain.artifact import MANIFEST_MEDIA_TYPE, Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.errors import DigestMismatchError, MalformedArtifactError
from dmr_core.ports.clock import Clock
from dmr_core.ports.registry import BlobReader, BlobSource, Credentials, Registry, RegistrySession, RemoteManifest

__all__ = ["OciRegistry"]

_MANIFEST_SIZE: Final = 4 * 1024 * 1024
_CONFIG_SIZE: Final = 16 * 1024 * 1024

# Indexes too: a registry that may not send one says "not found", which would be the wrong story.
_ACCEPT: Final = (
    f"{MANIFEST_MEDIA_TYPE}, application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)


class OciRegistry(Registry):
    """Every registry that speaks the OCI distribution protocol.

    One connection pool for all sessions, made on first use inside the running loop; whoever made the
    registry calls :meth:`aclose`. ``decode_manifest`` and ``decode_config`` raise
    ``MalformedArtifactError``. ``mirrors`` are asked before Docker Hub. ``resolver`` answers which addresses a host has, for the guard.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        decode_manifest: Callable[[bytes], Manifest],
        decode_config: Callable[[bytes], ModelConfig],
        endpoints: EndpointPolicy | None = None,
        credentials: CredentialStore | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        uploads: UploadPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
        mirrors: Sequence[Endpoint] = (),
    ) -> None:
        self._clock = clock
        self._mirrors = tuple(mirrors)
        self._decode = _Decoders(decode_manifest, decode_config)
        self._endpoints = endpoints or EndpointPolicy()
        self._timeouts = timeouts or Timeouts()
        self._credentials = credentials or CredentialStore()
        self._retry = retry or RetryPolicy()
        self._uploads = uploads or UploadPolicy()
        self._client = HttpClient(self._timeouts, tls)
        self._tokens = TokenCache(clock)
        self._resolver = resolver

    @asynccontextmanager
    async def session(
        self, reference: Reference, *, push: bool = False, credentials: Credentials | None = None
    ) -> AsyncIterator[RegistrySession]:
        """Open the repository a reference names. Opening makes no request."""
        endpoint = self._endpoints.endpoint(reference.registry)
        if push or not self._mirrors or reference.registry not in HUB_HOSTS:
            async with self._open(endpoint, reference, push=push, credentials=credentials) as session:
                yield session
            return
        async with AsyncExitStack() as stack:
            candidates = []
            for place in (*self._mirrors, endpoint):
                # What the request brought along is for the registry it names, not for its mirrors.
                own = credentials if place is endpoint else None
                opened = await stack.enter_async_context(self._open(place, reference, push=False, credentials=own))
                candidates.append(Candidate(place.registry, opened))
            yield MirroredSession(candidates)

    @asynccontextmanager
    async def _open(
        self, endpoint: Endpoint, reference: Reference, *, push: bool, credentials: Credentials | None
    ) -> AsyncIterator[RegistrySession]:
        authorizer = Authorizer(
            endpoint=endpoint,
            scope=f"repository:{reference.repository}:{'pull,push' if push else 'pull'}",
            client=self._client,
            clock=self._clock,
            store=self._credentials,
            cache=self._tokens,
            resolver=self._resolver,
            credentials=credentials,
        )
        repository = Repository(
            endpoint=endpoint,
            reference=reference,
            client=self._client,
            authorizer=authorizer,
            resolver=self._resolver,
            clock=self._clock,
            errors=ErrorReader(endpoint=endpoint, reference=reference, limit=self._timeouts.head),
        )
        uploads = BlobUploads(repository, self._retry, self._uploads)
        try:
            yield _Session(repository, uploads, self._decode, self._retry, self._timeouts.document)
        finally:
            await uploads.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


@attrs.frozen
class _Decoders:
    manifest: Callable[[bytes], Manifest]
    config: Callable[[bytes], ModelConfig]


@attrs.frozen(eq=False)
class _Session(RegistrySession):
    """One repository; ``document_limit`` in seconds."""

    repository: Repository
    uploads: BlobUploads
    decode: _Decoders
    retry: RetryPolicy
    document_limit: float

    async def manifest(self) -> RemoteManifest:
        """The manifest the reference names ("Pulling manifests"), verified against its digest."""
        return await retrying(self.repository.clock, self.retry, self._manifest)

    async def config(self, descriptor: Descriptor) -> tuple[ModelConfig, bytes]:
        """The config blob, verified and decoded."""
        if descriptor.size > _CONFIG_SIZE:
            raise MalformedArtifactError(f"the model config has {descriptor.size} bytes, {_CONFIG_SIZE} are allowed")
        content = await retrying(self.repository.clock, self.retry, lambda: self._content(descriptor))
        actual = Digest.of(content)
        if actual != descriptor.digest:
            raise DigestMismatchError(str(descriptor.digest), str(actual))
        return self.decode.config(content), content

    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Receive a blob. A stall or a broken connection is told by ``RegistryUnreachableError``."""
        return open_blob(self.repository, descriptor, offset, end, self.retry)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob already."""
        return await self.uploads.has(descriptor)

    async def mount_blob(self, descriptor: Descriptor, source: str) -> bool:
        """Take the blob from another repository of this registry, where it lets us."""
        return await self.uploads.mount(descriptor, source)

    async def push_blob(self, descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
        """Upload a blob; where a part has to be repeated, ``sent`` counts from there again."""
        await self.uploads.send(descriptor, source, sent)

    async def push_manifest(self, content: bytes, media_type: str) -> None:
        """Upload the manifest under the reference's tag, unless the tag names it already."""
        await send_manifest(self.repository, content, media_type, self.retry)

    async def _manifest(self) -> RemoteManifest:
        reference = self.repository.reference
        url = self.repository.url("manifests", reference.remote)
        what = f"a request for manifest {reference.remote!r}"
        async with self.repository.ask(
            "GET", url, what, accept=frozenset({200}), headers={"Accept": _ACCEPT}, names_model=True
        ) as answer:
            content = await read_bounded(answer, _MANIFEST_SIZE, self.document_limit)
            if content is None:
                raise MalformedArtifactError(
                    f"the manifest of {str(reference)!r} is larger than {_MANIFEST_SIZE} bytes"
                )
            told = told_digest(answer)
        digest = Digest.of(content)
        expected = reference.digest or told or digest
        if digest != expected:
            raise DigestMismatchError(str(expected), str(digest))
        return RemoteManifest(self.decode.manifest(content), content, digest)

    async def _content(self, descriptor: Descriptor) -> bytes:
        content = bytearray()
        once = attrs.evolve(self.retry, attempts=1, refused_attempts=1)  # the caller repeats opening and reading
        with translated(self.repository.endpoint.url):
            async with (
                asyncio.timeout(self.document_limit),
                open_blob(self.repository, descriptor, 0, None, once) as reader,
            ):
                async for chunk in reader.chunks:
                    content += chunk
        return bytes(content)
