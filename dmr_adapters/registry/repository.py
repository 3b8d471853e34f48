"""Requests to one repository: let in where needed, redirected where that is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import attrs
from yarl import URL

from dmr_adapters.registry.answer import ErrorReader
from dmr_adapters.registry.auth import Authorization, Authorizer
from dmr_adapters.registry.challenge import parse_challenges
from dmr_adapters.registry.client import HttpClient
from dmr_adapters.registry.endpoint import Endpoint, origin
from dmr_adapters.registry.guard import Resolver, check_target, may_lie_inside
from dmr_core.domain.reference import Reference
from dmr_core.errors import RegistryError
from dmr_core.ports.clock import Clock

__all__ = ["Body", "Repository"]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 10
_MAX_ANSWERS: Final = 4  # as nobody, with the request's token, with a kept token, with a fresh one

Body = Callable[[], AsyncIterator[bytes]]
"""Makes the body of one attempt."""


@attrs.frozen(kw_only=True, eq=False)
class Repository:
    """One repository of one registry. Credentials go to ``endpoint.origin`` and nowhere else."""

    endpoint: Endpoint
    reference: Reference
    client: HttpClient
    authorizer: Authorizer
    resolver: Resolver
    clock: Clock
    errors: ErrorReader

    def url(self, *parts: str) -> URL:
        """``/v2/<name>/<parts>``."""
        return self.endpoint.path(self.reference.repository, *parts)

    async def location(self, answer: aiohttp.ClientResponse) -> URL:
        """Where the answer says to go on (RFC 9110 §10.2.2: absolute, or relative to its URL).

        Raises:
            RegistryError: nowhere, or to a place we do not go.
        """
        text = answer.headers.get("Location", "")
        if not text:
            raise RegistryError(f"{answer.url.host!r} answered {answer.status} without saying where to go on")
        return await check_target(self.endpoint, answer.url, text, self.resolver)

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        url: URL,
        what: str,
        *,
        accept: frozenset[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        answer_within: float | None = None,
        names_model: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request and give its answer, whose status is one of ``accept``.

        GET and HEAD follow redirects. The connection is kept for others only if the body was read to
        its end; ``what`` names the request in messages.

        Raises:
            UnauthorizedError: nothing we have is good enough.
            RemoteModelNotFoundError: 404, where ``names_model``.
            RegistryUnreachableError: no connection, no answer in time, or it broke.
            RegistryError: any other status, or an unacceptable redirect.
        """
        answer = await self._follow(method, url, headers or {}, body, answer_within)
        try:
            if answer.status not in accept:
                raise await self.errors.condition(answer, what, now=self.clock.time(), names_model=names_model)
            yield answer
        finally:
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body | None, answer_within: float | None
    ) -> aiohttp.ClientResponse:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._authorized(method, url, headers, body, answer_within)
            if answer.status not in _REDIRECTS or method not in {"GET", "HEAD"}:
                return answer
            try:
                url = await self.location(answer)
            finally:
                answer.close()
        raise RegistryError(f"{self.endpoint.registry!r} redirects more than {_MAX_REDIRECTS} times")

    async def _authorized(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body | None, answer_within: float | None
    ) -> aiohttp.ClientResponse:
        """Send with what worked before; when refused, with the next best, until nothing is left."""
        own = origin(url) == self.endpoint.origin
        outward = not await may_lie_inside(self.endpoint, url, self.resolver, house=True)
        used = await self.authorizer.authorization() if own else None
        given: Authorization | None = None
        for attempts_left in reversed(range(_MAX_ANSWERS)):
            sent = {**headers, "Authorization": used.header} if used else headers
            content = body() if callable(body) else body
            answer = await self.client.send(
                method, url, headers=sent, body=content, answer_within=answer_within, outward=outward
            )
            # Some registries say 403 to a token they do not know.
            refused = answer.status == 401 or (answer.status == 403 and given is not None and not given.last_resort)
            hopeless = not attempts_left or (given is not None and given.last_resort)
            if not own or not refused or hopeless:
                return answer
            challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
            try:
                given = await self.authorizer.answer(challenges, used)
            except BaseException:
                answer.close()
                raise
            if given is None:
                return answer
            answer.close()
            used = given
        raise AssertionError("the last attempt returns its answer")
