"""The hub port over the API of the Hugging Face Hub."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AbstractAsyncContextManager
from typing import Final

from yarl import URL

from dmr_adapters.hugging_face.answer import Asked
from dmr_adapters.hugging_face.client import PUBLIC, HubClient
from dmr_adapters.hugging_face.download import FileRequest, open_file
from dmr_adapters.hugging_face.listing import next_page, read_files, read_revision
from dmr_adapters.hugging_face.token import TokenSource
from dmr_adapters.registry.client import HttpClient, Timeouts, read_bounded
from dmr_adapters.registry.guard import Resolver, resolve
from dmr_adapters.registry.ranged_body import ByteRange
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.errors import RegistryError
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.registry import BlobReader, Credentials

__all__ = ["HuggingFaceHub"]

_PAGE_BYTES: Final = 32 * 1024 * 1024
_MAX_PAGES: Final = 1000
_MAX_FILES: Final = 100_000


class HuggingFaceHub(ModelHub):
    """The Hub at ``endpoint``, or a mirror of it.

    The connection pool is made on first use inside the running loop; whoever made the hub calls :meth:`aclose`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        endpoint: str = str(PUBLIC),
        tokens: TokenSource | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or RetryPolicy()
        self._http = HttpClient(self._timeouts, tls)
        self._hub = HubClient(
            base=URL(endpoint),
            client=self._http,
            tokens=tokens or TokenSource(),
            resolver=resolver,
            clock=clock,
        )

    @property
    def host(self) -> str:
        return self._hub.base.host or ""

    async def revision(self, repository: str, revision: str, credentials: Credentials | None = None) -> HubRevision:
        url = self._hub.url("api", "models", *repository.split("/"), "revision", revision)
        asked = Asked(repository=repository, revision=revision, address=self._hub.address(repository))
        content, _ = await self._document(url, asked, credentials)
        return read_revision(content, repository, self.host)

    async def files(self, revision: HubRevision, credentials: Credentials | None = None) -> tuple[HubFile, ...]:
        repository = revision.repository
        asked = Asked(repository=repository, revision=revision.commit, address=self._hub.address(repository))
        url: URL | None = self._hub.url(
            "api", "models", *repository.split("/"), "tree", revision.commit, query={"recursive": "true"}
        )
        found: list[HubFile] = []
        seen: set[URL] = set()
        while url is not None:
            if url in seen or len(seen) >= _MAX_PAGES:
                raise RegistryError(f"{self.host!r} lists the files of {repository!r} without end")
            seen.add(url)
            content, link = await self._document(url, asked, credentials)
            found.extend(await asyncio.to_thread(_page, content, self.host))
            if len(found) > _MAX_FILES:
                raise RegistryError(f"{repository!r} has more than {_MAX_FILES} files")
            url = next_page(link, self._hub.base, url)
        return tuple(sorted(found, key=lambda file: file.path))

    def open_file(
        self,
        revision: HubRevision,
        file: HubFile,
        offset: int = 0,
        end: int | None = None,
        credentials: Credentials | None = None,
    ) -> AbstractAsyncContextManager[BlobReader]:
        # There is no range to ask for behind the end: what is here is wrong then.
        begin = offset if offset <= file.size else 0
        stop = file.size if end is None else min(end, file.size)
        part = ByteRange(begin, stop, file.size)
        request = FileRequest(revision=revision, file=file, range=part, credentials=credentials)
        return open_file(self._hub, request, self._retry)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _document(self, url: URL, asked: Asked, credentials: Credentials | None) -> tuple[bytes, str]:
        """A JSON document of the API, unread, and the ``Link`` header beside it."""

        async def attempt() -> tuple[bytes, str]:
            async with self._hub.ask(url, asked, credentials, headers={"Accept": "application/json"}) as answer:
                content = await read_bounded(answer, _PAGE_BYTES, self._timeouts.document)
                if content is None:
                    raise RegistryError(f"{self.host!r} says more than {_PAGE_BYTES} bytes about {asked.name!r}")
                return content, ", ".join(answer.headers.getall("Link", ()))

        return await retrying(self._hub.clock, self._retry, attempt)


def _page(content: bytes, host: str) -> list[HubFile]:
    return list(read_files(content, host))
