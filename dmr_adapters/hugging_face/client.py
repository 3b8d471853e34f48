"""Requests to the Hub: with a token to it alone, redirected where that is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.hugging_face.answer import Asked, condition
from dmr_adapters.hugging_face.token import Token, TokenSource
from dmr_adapters.registry.client import HttpClient
from dmr_adapters.registry.endpoint import Endpoint, origin
from dmr_adapters.registry.guard import Resolver, check_target, may_lie_inside
from dmr_core.errors import RegistryError, UnauthorizedError
from dmr_core.ports.clock import Clock
from dmr_core.ports.registry import Credentials

__all__ = ["PUBLIC", "HubClient"]

PUBLIC: Final = URL("https://huggingface.co")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 10

Hop = Callable[[aiohttp.ClientResponse], None]
"""Told every answer of the Hub's own on the way; raises where it is not acceptable."""


@attrs.frozen(kw_only=True, eq=False)
class HubClient:
    """One Hub. ``base`` is where its addresses begin, a path included where a mirror has one."""

    base: URL
    client: HttpClient
    tokens: TokenSource
    resolver: Resolver
    clock: Clock

    @property
    def endpoint(self) -> Endpoint:
        """The one party that may see tokens."""
        return Endpoint(self.base.host or "", self.base)

    def url(self, *parts: str, query: Mapping[str, str] | None = None) -> URL:
        """An address below :attr:`base`; each of ``parts`` becomes one component, whatever it holds."""
        path = "/".join(quote(part, safe="") for part in parts)
        url = URL(f"{str(self.base).rstrip('/')}/{path}", encoded=True)
        return url.with_query(query) if query else url

    def address(self, repository: str) -> str:
        """Where people read about a repository."""
        return f"{str(self.base).rstrip('/')}/{repository}"

    @asynccontextmanager
    async def ask(
        self,
        url: URL,
        asked: Asked,
        credentials: Credentials | None,
        *,
        accept: frozenset[int] = frozenset({200}),
        headers: Mapping[str, str] | None = None,
        hop: Hop | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET ``url``, follow redirects, and give the answer, whose status is one of ``accept``.

        Raises:
            UnauthorizedError, RemoteModelNotFoundError: the Hub refuses; see :func:`condition`.
            RegistryUnreachableError: no connection, no answer in time, or it broke.
            RegistryError: any other status, or an unacceptable redirect.
        """
        token = await self.tokens.find(credentials)
        answer = await self._follow(url, token, headers or {}, hop)
        try:
            if answer.status not in accept:
                own = origin(answer.url) == self.endpoint.origin
                raise condition(answer, asked, token, own=own, now=self.clock.time())
            yield answer
        finally:
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def _follow(
        self, url: URL, token: Token | None, headers: Mapping[str, str], hop: Hop | None
    ) -> aiohttp.ClientResponse:
        at_home = True  # who has sent us elsewhere does not get to send us back with the token
        for _ in range(_MAX_REDIRECTS + 1):
            at_home = at_home and origin(url) == self.endpoint.origin
            sent = {**headers, "Authorization": self._header(token)} if token and at_home else headers
            outward = not await may_lie_inside(self.endpoint, url, self.resolver, house=True)
            answer = await self.client.send("GET", url, headers=sent, outward=outward)
            try:
                if hop is not None and at_home:
                    hop(answer)
                if answer.status not in _REDIRECTS:
                    return answer
                location = answer.headers.get("Location", "")
                if not location:
                    raise RegistryError(f"{url.host!r} answered {answer.status} without saying where to go on")
                url = await check_target(self.endpoint, answer.url, location, self.resolver)
            except BaseException:
                answer.close()
                raise
            answer.close()
        raise RegistryError(f"{self.base.host!r} redirects more than {_MAX_REDIRECTS} times")

    def _header(self, token: Token) -> str:
        endpoint = self.endpoint
        if endpoint.is_plain and not endpoint.is_loopback:
            raise UnauthorizedError(
                f"the token from {token.origin} is not sent over plain HTTP: set HF_ENDPOINT to an https address"
            )
        return token.header
