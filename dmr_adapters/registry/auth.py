"""Being let in: Basic, and bearer tokens from a token server.

Protocols: RFC 6750, the distribution project's "Token Authentication Specification" (GET with a login
or as nobody) and its OAuth 2 variant (POST with an identity token, or with a login where GET is not served).
A token is good for one repository's scope and some minutes; it is kept under everything it depends on, the
credentials it was given for included, so that no registry ever sees a token obtained for another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import attrs
import orjson
from yarl import URL

from dmr_adapters.registry.challenge import Challenge
from dmr_adapters.registry.client import HttpClient, read_bounded
from dmr_adapters.registry.credentials import CredentialStore, IdentityToken, Login, Secret
from dmr_adapters.registry.endpoint import Endpoint
from dmr_adapters.registry.guard import Resolver, check_realm, may_lie_inside
from dmr_adapters.registry.retry import TRANSIENT_STATUSES, TransientAnswerError, seconds_to_wait
from dmr_core.errors import RegistryError, UnauthorizedError
from dmr_core.ports.clock import Clock
from dmr_core.ports.registry import Credentials

__all__ = ["Authorization", "Authorizer", "TokenCache", "TokenKey"]

_CLIENT_ID: Final = "dmr"
_ANSWER_SIZE: Final = 256 * 1024
_SHORTEST_LIFE: Final = 60  # the token specification's default, and its minimum
_LONGEST_LIFE: Final = 3600
_LEEWAY: Final = 10.0  # a token must not expire on its way
_CACHED_TOKENS: Final = 256
_NO_GET: Final = frozenset({404, 405})
_SENDABLE: Final = re.compile(r"[\x21-\x7e]{1,65536}")


@attrs.frozen
class TokenKey:
    """All that a token depends on. ``credentials`` names the registry and a fingerprint, no secret."""

    realm: str
    service: str
    scopes: tuple[str, ...]
    credentials: tuple[str, str]


class TokenCache:
    """Tokens that have not expired. Times are readings of the monotonic clock, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[TokenKey, tuple[str, float]] = {}

    def get(self, key: TokenKey) -> tuple[str, float] | None:
        """A token and when it expires."""
        found = self._tokens.get(key)
        return found if found and found[1] > self._clock.monotonic() else None

    def put(self, key: TokenKey, token: str, lifetime: float) -> tuple[str, float]:
        """Keep a token for its lifetime less a margin; the oldest make room."""
        now = self._clock.monotonic()
        entry = token, now + max(lifetime - _LEEWAY, lifetime / 2)
        self._tokens = {known: value for known, value in self._tokens.items() if value[1] > now and known != key}
        while len(self._tokens) >= _CACHED_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[key] = entry
        return entry

    def drop(self, key: TokenKey) -> None:
        """Forget a token the registry no longer takes."""
        self._tokens.pop(key, None)


@attrs.frozen
class Authorization:
    """A value for the header. ``last_resort``: if it is refused though just obtained, nothing is left to try."""

    header: str = attrs.field(repr=False)
    last_resort: bool
    expires: float = float("inf")


class Authorizer:
    """Speaks for one session to one registry; never sends anything anywhere before it is asked to.

    Credentials of the request (a bearer token) are taken for what clients send in that field, which is
    both: first they are shown to the registry as they are, as an access token; if it does not take
    them they go to its token server as an identity token. They replace what the machine knows, and
    tokens obtained with them are known to this session alone.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        scope: str,
        client: HttpClient,
        clock: Clock,
        store: CredentialStore,
        cache: TokenCache,
        resolver: Resolver,
        credentials: Credentials | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._client = client
        self._clock = clock
        self._store = store
        self._cache = cache if credentials is None else TokenCache(clock)
        self._resolver = resolver
        self._request = credentials
        self._also: tuple[str, ...] = ()
        self._request_untried = credentials is not None
        self._secret: Secret | None = None
        self._looked_up = False
        self._current: Authorization | None = None
        self._challenges: tuple[Challenge, ...] = ()
        self._key: TokenKey | None = None
        self._lock = asyncio.Lock()

    def widened(self, scope: str) -> Authorizer:
        """One for what needs ``scope`` besides. Whatever comes of it, this one stays as it is."""
        other = Authorizer(
            endpoint=self._endpoint,
            scope=self._scope,
            client=self._client,
            clock=self._clock,
            store=self._store,
            cache=self._cache,
            resolver=self._resolver,
            credentials=self._request,
        )
        other._cache = self._cache
        other._also = (scope,)
        other._challenges = self._challenges  # so that it need not be refused first
        return other

    async def authorization(self) -> Authorization | None:
        """What to send from the start: what worked so far, renewed if it has expired since.

        Raises:
            UnauthorizedError, RegistryError: as for :meth:`answer`.
        """
        current = self._valid()
        if current is None and self._challenges:
            return await self.answer((), None)
        return current

    async def answer(self, challenges: Sequence[Challenge], refused: Authorization | None) -> Authorization | None:
        """What to send instead of ``refused``; ``None`` when there is nothing.

        Raises:
            UnauthorizedError: the token server refused the credentials.
            RegistryError: the challenge, the token server or its answer is unacceptable.
        """
        async with self._lock:
            current = self._valid()
            if current is not None and current is not refused:
                return current  # another request of this session has been here already
            self._challenges = tuple(challenges) or self._challenges
            self._current = await self._choose(self._challenges, again=refused is not None)
            return self._current

    def _valid(self) -> Authorization | None:
        found = self._current
        return found if found and found.expires > self._clock.monotonic() else None

    async def _choose(self, challenges: Sequence[Challenge], *, again: bool) -> Authorization | None:
        offers = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if not offers:
            return None
        if self._request is not None and self._request_untried:
            self._request_untried = False
            token = _sendable(self._request.bearer_token, f"the token for registry {self._endpoint.registry!r}")
            return Authorization(f"Bearer {token}", last_resort="bearer" not in offers)
        if "bearer" in offers:
            return await self._bearer(offers["bearer"].parameters, await self._credentials(), again=again)
        if "basic" in offers:
            secret = await self._credentials()
            return Authorization(secret.header, last_resort=True) if isinstance(secret, Login) else None
        names = ", ".join(sorted(offers))
        raise RegistryError(
            f"registry {self._endpoint.registry!r} wants {names} authentication; dmr knows Basic and Bearer"
        )

    async def _credentials(self) -> Secret | None:
        if self._request is not None:
            return IdentityToken(self._request.bearer_token)
        if not self._looked_up:
            self._secret = await self._store.find(self._endpoint.registry)
            self._looked_up = True
        return self._secret

    async def _bearer(self, parameters: Mapping[str, str], secret: Secret | None, *, again: bool) -> Authorization:
        key = TokenKey(
            realm=parameters.get("realm", ""),
            service=parameters.get("service", ""),
            scopes=self._scopes(parameters.get("scope", "")),
            credentials=(self._endpoint.url.authority, secret.fingerprint if secret else ""),
        )
        if again and key == self._key:
            self._cache.drop(key)
        self._key = key
        if known := self._cache.get(key):
            return Authorization(f"Bearer {known[0]}", last_resort=False, expires=known[1])
        realm = await check_realm(self._endpoint, key.realm, self._resolver)
        token, lifetime = await self._fetch(realm, key, secret)
        _, expires = self._cache.put(key, token, lifetime)
        return Authorization(f"Bearer {token}", last_resort=True, expires=expires)

    def _scopes(self, asked: str) -> tuple[str, ...]:
        """Our own scope, and those asked for that it does not cover, as for a mirrored name."""
        own = (self._scope, *self._also)
        resources = tuple(scope.rpartition(":")[0] + ":" for scope in own)
        return *own, *sorted({scope for scope in asked.split() if not scope.startswith(resources)})

    async def _fetch(self, realm: URL, key: TokenKey, secret: Secret | None) -> tuple[str, float]:
        if isinstance(secret, IdentityToken):
            answer = await self._post(realm, key, {"grant_type": "refresh_token", "refresh_token": secret.token})
        else:
            answer = await self._get(realm, key, secret)
            if answer.status in _NO_GET and secret is not None:  # a token server that speaks OAuth 2 alone
                answer.close()
                login = {"grant_type": "password", "username": secret.username, "password": secret.password}
                answer = await self._post(realm, key, login)
        try:
            self._check_status(answer.status, answer.headers.get("Retry-After"), realm, known=secret is not None)
            content = await read_bounded(answer, _ANSWER_SIZE, self._client.timeouts.head)
        finally:
            answer.close()
        return self._token(content, realm)

    async def _get(self, realm: URL, key: TokenKey, login: Login | None) -> aiohttp.ClientResponse:
        fields = {"service": key.service} if key.service else {}
        query = urlencode([*fields.items(), *(("scope", scope) for scope in key.scopes)])
        joined = "&".join(filter(None, (realm.raw_query_string, query)))
        headers = {"Accept": "application/json"} | ({"Authorization": login.header} if login else {})
        url = URL(f"{realm.with_query(None)}?{joined}", encoded=True)
        return await self._client.send("GET", url, headers=headers, outward=await self._outward(realm))

    async def _post(self, realm: URL, key: TokenKey, grant: Mapping[str, str]) -> aiohttp.ClientResponse:
        fields = {"service": key.service, "client_id": _CLIENT_ID, "scope": " ".join(key.scopes), **grant}
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(fields).encode()
        return await self._client.send("POST", realm, headers=headers, body=body, outward=await self._outward(realm))

    async def _outward(self, realm: URL) -> bool:
        return not await may_lie_inside(self._endpoint, realm, self._resolver, house=False)

    def _check_status(self, status: int, retry_after: str | None, realm: URL, *, known: bool) -> None:
        """Judge a token server by its status; what it writes beside it is never repeated to anybody."""
        if status == 200:
            return
        who = f"the token server {realm.host!r} of registry {self._endpoint.registry!r}"
        if status in TRANSIENT_STATUSES:
            wait = seconds_to_wait(retry_after, self._clock.time())
            raise TransientAnswerError(f"{who} answered {status}", retry_after=wait)
        if status in {400, 401, 403, 404, 405}:
            what = (
                "refused the credentials; log in again" if known else "gives nothing without credentials; log in first"
            )
            raise UnauthorizedError(f"{who} {what} ('docker login {self._endpoint.registry}')")
        raise RegistryError(f"{who} answered {status}")

    def _token(self, content: bytes | None, realm: URL) -> tuple[str, float]:
        who = f"the token server {realm.host!r} of registry {self._endpoint.registry!r}"
        try:
            document: Any = orjson.loads(content or b"")
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"{who} did not answer with a token")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _SENDABLE.fullmatch(token):
            raise RegistryError(f"{who} did not answer with a token")
        lifetime = document.get("expires_in")
        usable = isinstance(lifetime, int) and not isinstance(lifetime, bool) and lifetime > 0
        return token, float(min(lifetime, _LONGEST_LIFE)) if usable and lifetime else float(_SHORTEST_LIFE)


def _sendable(token: str, what: str) -> str:
    if not _SENDABLE.fullmatch(token):
        raise UnauthorizedError(f"{what} holds characters no header may hold")
    return token
