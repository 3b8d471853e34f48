"""Hubs: repositories of loose model files under version control."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.ports.registry import BlobReader, Credentials

__all__ = ["ModelHub"]


class ModelHub(Protocol):
    """A hub. Everything it says is untrusted: nothing but lengths and forms has been checked.

    Every method raises, besides what it names: ``UnauthorizedError`` (terms to be accepted first, a token
    missing or refused), ``RegistryUnreachableError`` (no answer, or the connection broke) and
    ``RegistryError`` (an answer outside the protocol). Transient failures have been retried by then.
    Cancelling closes the connection. Credentials never leave the hub's own host.
    """

    @property
    @abstractmethod
    def host(self) -> str:
        """The host that its connections count against."""

    @abstractmethod
    async def revision(self, repository: str, revision: str, credentials: Credentials | None = None) -> HubRevision:
        """What a branch, a tag or a commit stands for now.

        Raises:
            RemoteModelNotFoundError: no such repository, as far as the hub tells us, or no such revision.
        """

    @abstractmethod
    async def files(self, revision: HubRevision, credentials: Credentials | None = None) -> tuple[HubFile, ...]:
        """Every file of a revision, in the order of their paths; files with unsafe paths are left out.

        Raises:
            RemoteModelNotFoundError: as above.
        """

    @abstractmethod
    def open_file(
        self,
        revision: HubRevision,
        file: HubFile,
        offset: int = 0,
        end: int | None = None,
        credentials: Credentials | None = None,
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Receive a file, from ``offset`` on and up to ``end`` where the hub can. The bytes are not verified.

        A hub that does not grant the range sends everything: the reader's ``offset`` is then 0, and its
        ``end`` that of the file.

        Raises:
            RemoteModelNotFoundError: the file is not there.
        """
