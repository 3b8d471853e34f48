"""Docker Hub: the repositories of its organisation ``ai``.

Its API lists them by popularity and searches nothing, so terms are looked for here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs
import msgspec
from yarl import URL

from dmr_adapters.registry.client import HttpClient
from dmr_adapters.registry.endpoint import origin
from dmr_adapters.search.hub_answer import count, each, fetch
from dmr_core.domain.artifact import Format
from dmr_core.domain.naming import DEFAULT_ORGANIZATION
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.search import MAX_DESCRIPTION, MAX_NAME, SearchHit, plain
from dmr_core.errors import InvalidReferenceError, RegistryError
from dmr_core.ports.model_search import ModelSearch
from dmr_core.ports.registry import Registry

__all__ = ["DockerHubSearch"]

_PAGE: Final = 100
_MAX_PAGES: Final = 50
_BACKENDS: Final = {Format.GGUF: "llama.cpp", Format.SAFETENSORS: "vllm", Format.DDUF: "diffusers"}


class _Page(msgspec.Struct):
    """A page of ``/v2/repositories/{organisation}/``."""

    results: list[msgspec.Raw] = []
    next: str | None = None


class _Repository(msgspec.Struct):
    """An entry of it."""

    name: str
    namespace: str = DEFAULT_ORGANIZATION
    description: str | None = None
    is_private: bool = False
    star_count: int | None = None
    pull_count: int | None = None
    last_updated: str | None = None


@attrs.frozen(kw_only=True, eq=False)
class DockerHubSearch(ModelSearch):
    """``url`` is where the Hub's API is; what its models consist of is asked of ``registry``."""

    client: HttpClient
    registry: Registry
    policy: ReferencePolicy
    url: URL

    @property
    def key(self) -> str:
        """See :class:`ModelSearch`."""
        return "dockerhub"

    @property
    def name(self) -> str:
        """See :class:`ModelSearch`."""
        return "Docker Hub"

    async def search(self, term: str, limit: int) -> tuple[SearchHit, ...]:
        """See :class:`ModelSearch`."""
        wanted = term.lower()
        url = self.url / "v2" / "repositories" / DEFAULT_ORGANIZATION / ""
        url = url.with_query(page_size=str(_PAGE), ordering="pull_count")
        hits: list[SearchHit] = []
        for _ in range(_MAX_PAGES):
            page = await fetch(self.client, url, _Page, self.name)
            hits.extend(self._hits(page, wanted))
            if len(hits) >= limit or not page.next or not page.results:
                break
            url = self._following(url, page.next)
        hits.sort(key=lambda hit: -hit.downloads)
        return tuple(hits[:limit])

    async def described(self, hit: SearchHit) -> SearchHit:
        """See :class:`ModelSearch`; its manifest tells."""
        reference = parse_reference(hit.reference, self.policy)
        async with self.registry.session(reference) as session:
            manifest = (await session.manifest()).manifest
        weights = manifest.weights_format()
        size = sum(blob.size for blob in manifest.blobs)
        return attrs.evolve(hit, backend=_BACKENDS[weights] if weights else hit.backend, size=count(size))

    def _hits(self, page: _Page, wanted: str) -> Iterator[SearchHit]:
        for repository in each(page.results[:_PAGE], _Repository):
            name = f"{repository.namespace}/{repository.name}"
            description = repository.description or ""
            found = wanted in repository.name.lower() or wanted in description.lower()
            if repository.is_private or not found or len(name) > MAX_NAME:
                continue
            try:
                reference = parse_reference(name, self.policy)
            except InvalidReferenceError:
                continue  # nobody could pull it
            if reference.repository != name:
                continue
            yield SearchHit(
                name=name,
                reference=reference.display(self.policy),
                source=self.name,
                description=plain(description, MAX_DESCRIPTION),
                downloads=count(repository.pull_count),
                stars=count(repository.star_count),
                official=repository.namespace == DEFAULT_ORGANIZATION,
                updated_at=plain(repository.last_updated or "", 64),
            )

    def _following(self, url: URL, text: str) -> URL:
        """The next page, which lies where this one does.

        Raises:
            RegistryError: it is said to lie elsewhere.
        """
        try:
            following = url.join(URL(text))
        except ValueError as exc:
            raise RegistryError(f"{self.name} names a next page that is no address") from exc
        if origin(following) != origin(self.url):
            raise RegistryError(f"{self.name} names a next page on another server; refused")
        return following
