"""OCI registries: where models are pulled from and pushed to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from dmr_core.domain.artifact import Descriptor, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.domain.secret import Login, Secret

__all__ = ["BlobReader", "BlobSource", "ByteSource", "Credentials", "Registry", "RegistrySession", "RemoteManifest"]


@attrs.frozen
class Credentials:
    """What a request brought along for the registry it names; never stored, never logged.

    ``login`` is for the registry it names and for no other. ``engine_key`` is what the engine of the model asks for, which
    some registries take as well.
    """

    bearer_token: str = attrs.field(default="", repr=False)
    login: Login | None = None
    engine_key: Secret | None = None


@attrs.frozen
class RemoteManifest:
    """A manifest with the bytes its digest was verified against."""

    manifest: Manifest
    content: bytes
    digest: Digest


class ByteSource(Protocol):
    """Bytes that a thread can have without the event loop: they go straight into its memory, and nothing is copied."""

    @abstractmethod
    def read_into(self, buffer: memoryview) -> int:
        """Put what there is into ``buffer``, at least one byte; how many. Blocks, within bounds.

        Raises:
            RegistryUnreachableError: the connection broke, stalled, or ended; or :meth:`abort` was called.
        """

    @abstractmethod
    def abort(self) -> None:
        """Make :meth:`read_into` fail soon, wherever it is. Called from another thread."""


@attrs.frozen
class BlobReader:
    """A blob being received. ``offset`` is where the bytes begin: 0 when a resume was not granted.

    ``end`` is where they end, which is the end of the blob where the range was not granted; ``None`` where that is
    not known. ``source`` gives the same bytes as ``chunks``, where that can be had; whoever begins with one stays with it.
    """

    offset: int
    chunks: AsyncIterator[bytes]
    source: ByteSource | None = None
    end: int | None = None


BlobSource = Callable[[int], AsyncIterator[bytes]]
"""Gives a blob's bytes from an offset on; called again when an upload has to be repeated."""


class RegistrySession(Protocol):
    """One repository of one registry, with the tokens obtained for it.

    Every method raises, besides what it names: ``UnauthorizedError`` (credentials missing or
    refused), ``RegistryUnreachableError`` (no answer, or the connection broke) and ``RegistryError``
    (an answer outside the protocol). Transient failures have been retried by then. Cancelling closes
    the connection.
    """

    @abstractmethod
    async def manifest(self) -> RemoteManifest:
        """The manifest the reference names.

        Raises:
            RemoteModelNotFoundError: no such repository, tag or digest.
            DigestMismatchError: the bytes are not those of the digest asked for.
            MalformedArtifactError: the bytes are no image manifest.
        """

    @abstractmethod
    async def config(self, descriptor: Descriptor) -> tuple[ModelConfig, bytes]:
        """The config blob, verified and decoded.

        Raises:
            DigestMismatchError, MalformedArtifactError: as for :meth:`manifest`.
        """

    @abstractmethod
    def read_blob(
        self, descriptor: Descriptor, offset: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Receive a blob, from ``offset`` on and up to ``end`` where the registry can. The bytes are not verified.

        A registry that does not grant the range sends everything: the reader's ``offset`` is then 0, and
        its chunks go on to the blob's last byte.
        """

    def distrust(self, descriptor: Descriptor) -> bool:
        """The bytes that were received of a blob are wrong: whether somebody else can be asked for them."""
        return False

    @abstractmethod
    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob already."""

    @abstractmethod
    async def mount_blob(self, descriptor: Descriptor, source: str) -> bool:
        """Take the blob from the repository ``source`` of the same registry without sending a byte.

        ``False`` where the registry cannot or will not; pushing it is then the way.
        """

    @abstractmethod
    async def push_blob(self, descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
        """Upload a blob; ``sent`` is told the bytes sent so far."""

    @abstractmethod
    async def push_manifest(self, content: bytes, media_type: str) -> None:
        """Upload the manifest under the reference's tag."""


class Registry(Protocol):
    """Every registry there is."""

    @abstractmethod
    def session(
        self, reference: Reference, *, push: bool = False, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[RegistrySession]:
        """Open the repository a reference names. Opening makes no request."""
