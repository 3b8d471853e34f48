"""The Hub, made for the first pull from it.

The HTTP client it imports takes longer than the rest of the adapters together, and a service that has its
models never needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.registry import BlobReader, Credentials

if TYPE_CHECKING:
    from ssl import SSLContext

    from dmr_adapters.hugging_face.hub import HuggingFaceHub

__all__ = ["LazyHuggingFaceHub"]


class LazyHuggingFaceHub(ModelHub):
    """Stands for the Hub at ``endpoint``; ``environment`` is where its token is looked for, ``tls`` whom to trust."""

    def __init__(
        self, *, clock: Clock, endpoint: str, environment: Mapping[str, str], tls: SSLContext | None = None
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._environment = environment
        self._tls = tls
        self._hub: HuggingFaceHub | None = None

    @property
    def host(self) -> str:
        return urlsplit(self._endpoint).hostname or ""

    async def revision(self, repository: str, revision: str, credentials: Credentials | None = None) -> HubRevision:
        return await self._made().revision(repository, revision, credentials)

    async def files(self, revision: HubRevision, credentials: Credentials | None = None) -> tuple[HubFile, ...]:
        return await self._made().files(revision, credentials)

    def open_file(
        self,
        revision: HubRevision,
        file: HubFile,
        offset: int = 0,
        end: int | None = None,
        credentials: Credentials | None = None,
    ) -> AbstractAsyncContextManager[BlobReader]:
        return self._made().open_file(revision, file, offset, end, credentials)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._hub is not None:
            await self._hub.aclose()

    def _made(self) -> HuggingFaceHub:
        if self._hub is None:
            from dmr_adapters.hugging_face.hub import HuggingFaceHub  # noqa: PLC0415 - see the module
            from dmr_adapters.hugging_face.token import TokenSource  # noqa: PLC0415

            self._hub = HuggingFaceHub(
                clock=self._clock, endpoint=self._endpoint, tokens=TokenSource(self._environment), tls=self._tls
            )
        return self._hub
