"""Where models are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from dmr_core.domain.artifact import Artifact, Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.reference import Reference
from dmr_core.domain.spans import Span
from dmr_core.ports.registry import ByteSource

__all__ = ["BlobWriter", "ModelStore", "PartWriter"]


class PartWriter(Protocol):
    """Writes one stretch of a blob while others write other stretches of it."""

    @property
    @abstractmethod
    def position(self) -> int:
        """Where the next byte goes."""

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Put ``chunk`` at :attr:`position`. Quick while the disk keeps up; waits for it where it does not.

        Raises:
            StorageFullError: the disk is full; what was written stays for a later attempt.
            DigestMismatchError: more bytes than the descriptor promises.
        """

    @abstractmethod
    async def receive(self, source: ByteSource, count: int, received: Callable[[int], None]) -> None:
        """Put the next ``count`` bytes of ``source`` at :attr:`position`; as :meth:`write`, but in threads of its own.

        ``received`` is told now and then, in the event loop, how many bytes came in since it was told last. What
        came in before a failure is here.

        Raises:
            RegistryUnreachableError: ``source`` failed. Others as for :meth:`write`.
        """


class BlobWriter(Protocol):
    """One blob on its way into the store. Nothing is visible before :meth:`commit` returns.

    Written either from :attr:`offset` on with :meth:`write`, or in parts, in any order and several at
    once. What an earlier attempt left, in parts or not, is here again on opening.
    """

    @property
    @abstractmethod
    def offset(self) -> int:
        """Bytes here from byte 0 on without a gap; :meth:`write` goes on from there."""

    @property
    @abstractmethod
    def missing(self) -> tuple[Span, ...]:
        """What is not here yet, in order; empty where only the commit is to be done."""

    @property
    @abstractmethod
    def resumed(self) -> int:
        """How many bytes were here on opening. They are not verified before :meth:`commit`."""

    @abstractmethod
    def part(self, start: int) -> AbstractAsyncContextManager[PartWriter]:
        """Write from ``start`` on. No two parts may write the same bytes at once.

        Leaving the context keeps what was written, whatever the reason for leaving.
        """

    @abstractmethod
    async def restart(self) -> None:
        """Forget what is here: the next write begins at byte 0."""

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Append ``chunk``.

        Raises:
            StorageFullError: the disk is full; what was written stays for a later attempt.
            DigestMismatchError: more bytes than the descriptor promises.
        """

    @abstractmethod
    async def commit(self) -> None:
        """Verify size and digest, make the blob durable, then visible.

        Raises:
            DigestMismatchError: what was written is not what was promised; it is thrown away.
        """


class ModelStore(Protocol):
    """Content-addressed blobs, and an index of models over them.

    Reading the index is synchronous and never touches the disk, because the request path does it;
    everything else may block on the disk and is awaited. Every write is atomic: a process killed at
    any point leaves the old state or the new one. Methods may be called concurrently.
    """

    @property
    @abstractmethod
    def generation(self) -> int:
        """A number that changes whenever the index does; lets callers keep what they looked up."""

    @abstractmethod
    def models(self) -> tuple[Model, ...]:
        """Every model, in the order of the index."""

    @abstractmethod
    def by_id(self, model_id: Digest) -> Model | None:
        """The model with this ID."""

    @abstractmethod
    def by_tag(self, canonical: str) -> Model | None:
        """The model that carries this canonical tag."""

    @abstractmethod
    async def refresh(self) -> None:
        """Take in what another process changed in the index."""

    @abstractmethod
    async def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is here, complete: of ``size`` bytes, where that is known. One that was cut short is not."""

    @abstractmethod
    def write_blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[BlobWriter]:
        """Begin or resume writing a blob. Leaving the context without a commit keeps the partial.

        Two writers of one digest take turns; the second finds the blob here and its commit is a no-op.

        Raises (on entering):
            StoreUnwritableError: the store cannot be written.
        """

    @abstractmethod
    def blob_file(self, digest: Digest) -> Path:
        """The file that holds a complete blob, for readers of headers. Read only; it may be gone at any time
        unless the blob is leased.
        """

    @abstractmethod
    def lease(self, digests: Iterable[Digest]) -> AbstractAsyncContextManager[None]:
        """Keep these blobs, and what has been received of them, from every garbage collection while this is held.

        Holds in other processes too, and ends with this one however it dies. A digest may be of a blob
        that is not here yet, or of a model, whose manifest and bundle are then kept as well.
        """

    @abstractmethod
    async def require_space(self, blobs: Iterable[Descriptor]) -> None:
        """Make sure, before the first byte is fetched, that what is missing of ``blobs`` has room.

        Raises:
            StorageFullError: they have not.
        """

    @abstractmethod
    def read_blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from ``offset`` on.

        Raises (on iteration):
            NotFoundError: there is no such blob.
        """

    @abstractmethod
    async def read_manifest(self, model_id: Digest) -> bytes | None:
        """The exact bytes of a model's manifest, ``None`` when there is no such model."""

    @abstractmethod
    async def add(self, artifact: Artifact) -> Model:
        """Make a model visible; its layers must be here. Adding one that is here already is a no-op.

        Raises:
            PreconditionError: a layer is missing.
            StorageFullError, StoreUnwritableError: nothing was added.
        """

    @abstractmethod
    async def tag(self, model_id: Digest, reference: Reference) -> Model:
        """Give a model a tag, taking it from whoever has it.

        Raises:
            ModelNotFoundError: no such model.
        """

    @abstractmethod
    async def untag(self, canonical: str) -> None:
        """Take a tag away; the model stays. A tag nobody has is a no-op."""

    @abstractmethod
    async def remove(self, model_id: Digest, *, only_tagged: Collection[str] | None = None) -> bool:
        """Remove a model with its tags, bundle and every blob no other model needs and nobody leased. Idempotent.

        With ``only_tagged`` nothing happens, and ``False`` is the answer, where these are not the tags that the model
        carries, or it is gone: somebody else may have given it one, or taken one away, since the caller looked.

        Raises:
            ModelInUseError: the model itself is leased, here or in another process.
        """

    @abstractmethod
    async def bundle(self, model_id: Digest) -> Bundle:
        """The directory engines read, made on first use.

        Raises:
            ModelNotFoundError: no such model.
            MalformedArtifactError: the artifact names files that cannot be laid out, or has no weights.
        """

    @abstractmethod
    async def disk_usage(self) -> int:
        """Bytes the store takes on disk; a file linked twice counts once."""
