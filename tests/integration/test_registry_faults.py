"""The registry adapter against a server that misbehaves; every wait is short or made so."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qs

import attrs
import pytest
from aiohttp import web

from dmr_adapters.clock import SystemClock
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry import resumable_upload
from dmr_adapters.registry.client import Timeouts
from dmr_adapters.registry.credentials import CredentialStore, IdentityToken, Login, Secret
from dmr_adapters.registry.endpoint import EndpointPolicy
from dmr_adapters.registry.oci import OciRegistry
from dmr_adapters.registry.retry import RetryPolicy
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.errors import (
    DigestMismatchError,
    DmrError,
    MalformedArtifactError,
    RegistryError,
    RegistryUnreachableError,
    RemoteModelNotFoundError,
    UnauthorizedError,
)
from dmr_core.ports.registry import BlobSource, Credentials
from tests.stand_ins.faulty_registry import FaultyRegistry, Script, Seen, faulty_registry, refuse

_SHORT = Timeouts(connect=2, head=0.3, stall=0.3, document=2)
_LOGIN = Login("me", "secret")


class ImpatientClock(SystemClock):
    """Notes every wait and does not wait; ``ahead`` moves its readings."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


class Keys(CredentialStore):
    """Knows a secret for some registries, and which were asked for."""

    def __init__(self, secrets: dict[str, Secret]) -> None:
        super().__init__()
        object.__setattr__(self, "secrets", secrets)

    async def find(self, registry: str) -> Secret | None:
        secrets: dict[str, Secret] = getattr(self, "secrets")  # noqa: B009 - the base is frozen
        return secrets.get(registry)


Make = Callable[..., OciRegistry]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def clock() -> ImpatientClock:
    return ImpatientClock()


@pytest.fixture
async def make(clock: ImpatientClock) -> AsyncIterator[Make]:
    made: list[OciRegistry] = []

    def build(**options: object) -> OciRegistry:
        settings = {"timeouts": _SHORT, "clock": clock} | options
        registry = OciRegistry(decode_manifest=decode_manifest, decode_config=decode_config, **settings)  # type: ignore[arg-type]
        made.append(registry)
        return registry

    yield build
    for registry in made:
        await registry.aclose()


@pytest.fixture
async def server() -> AsyncIterator[FaultyRegistry]:
    async with faulty_registry() as running:
        yield running


async def pull(registry: OciRegistry, reference: Reference, credentials: Credentials | None = None) -> None:
    async with registry.session(reference, credentials=credentials) as session:
        await session.manifest()


async def download(registry: OciRegistry, server: FaultyRegistry, offset: int = 0) -> tuple[int, bytes]:
    layer = server.model.artifact.manifest.layers[0]
    async with registry.session(server.reference) as session, session.read_blob(layer, offset) as reader:
        return reader.offset, b"".join([chunk async for chunk in reader.chunks])


def bytes_of(content: bytes, calls: list[int] | None = None) -> BlobSource:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        if calls is not None:
            calls.append(offset)
        for start in range(offset, len(content), 65536):
            yield content[start : start + 65536]

    return chunks


def on(
    path_part: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse | None]], times: int = 10**9
) -> Script:
    """A script for requests whose path has ``path_part``, the first ``times`` of them."""
    left = times

    async def script(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        if path_part not in request.path or left <= 0:
            return None
        left -= 1
        return await answer(request)

    return script


def always(*args: object, **kwargs: object) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(*args, **kwargs)  # type: ignore[arg-type]

    return answer


# --- wrong bytes ------------------------------------------------------------------------------------


async def test_a_manifest_that_is_not_the_one_asked_for_is_refused(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/manifests/", always(body=b'{"schemaVersion": 2}'))
    pinned = attrs.evolve(server.reference, digest=server.model.artifact.id)
    with pytest.raises(DigestMismatchError) as raised:
        await pull(make(), pinned)
    assert raised.value.expected == str(server.model.artifact.id)


async def test_a_manifest_that_is_not_what_its_header_says_is_refused(make: Make, server: FaultyRegistry) -> None:
    told = str(Digest.of(b"something else"))
    server.script = on("/manifests/", always(body=b"{}", headers={"Docker-Content-Digest": told}))
    with pytest.raises(DigestMismatchError):
        await pull(make(), server.reference)


async def test_a_config_with_wrong_bytes_is_refused(make: Make, server: FaultyRegistry) -> None:
    config = server.model.artifact.manifest.config
    server.blobs[str(config.digest)] = b"x" * config.size
    async with make().session(server.reference) as session:
        with pytest.raises(DigestMismatchError):
            await session.config(config)


async def test_a_config_that_claims_to_be_huge_is_not_asked_for(make: Make, server: FaultyRegistry) -> None:
    config = attrs.evolve(server.model.artifact.manifest.config, size=17 * 1024 * 1024)
    async with make().session(server.reference) as session:
        with pytest.raises(MalformedArtifactError):
            await session.config(config)
    assert server.seen == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_manifest_is_not_read(make: Make, server: FaultyRegistry, *, announced: bool) -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"Content-Length": str(1 << 40)} if announced else {})
        await answer.prepare(request)
        try:
            while sent < 1 << 30:
                await answer.write(b" " * 65536)
                sent += 65536
        except ConnectionError:
            pass
        return answer

    server.script = on("/manifests/", flood)
    with pytest.raises(MalformedArtifactError, match="larger than"):
        await pull(make(), server.reference)
    assert sent < 64 * 1024 * 1024


async def test_an_index_is_said_to_be_no_model(make: Make, server: FaultyRegistry) -> None:
    index = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
    server.script = on("/manifests/", always(body=index))
    with pytest.raises(DmrError) as raised:
        await pull(make(), server.reference)
    assert not isinstance(raised.value, RegistryError)


# --- blobs that break -------------------------------------------------------------------------------


async def test_a_truncated_blob_is_a_broken_connection_and_can_be_resumed(make: Make, server: FaultyRegistry) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(server.model.layer))})
        await answer.prepare(request)
        await answer.write(server.model.layer[:300_000])
        assert request.transport is not None
        request.transport.close()
        return answer

    server.script = on("/blobs/", cut, times=1)
    registry, received = make(), bytearray()
    layer = server.model.artifact.manifest.layers[0]
    async with registry.session(server.reference) as session:

        async def receive() -> None:
            async with session.read_blob(layer) as reader:
                async for chunk in reader.chunks:
                    received.extend(chunk)

        with pytest.raises(RegistryUnreachableError, match="broke the connection"):
            await receive()
        assert bytes(received) == server.model.layer[:300_000]
        async with session.read_blob(layer, len(received)) as reader:
            assert reader.offset == 300_000
            received += b"".join([chunk async for chunk in reader.chunks])
    assert bytes(received) == server.model.layer


async def test_a_blob_without_a_length_that_ends_early_is_a_broken_connection(
    make: Make, server: FaultyRegistry
) -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(server.model.layer[:1000])
        return answer

    server.script = on("/blobs/", short)
    with pytest.raises(RegistryUnreachableError, match="1000 of"):
        await download(make(), server)


async def test_a_stalled_blob_ends_with_the_stall_limit(make: Make, server: FaultyRegistry) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(server.model.layer))})
        await answer.prepare(request)
        await answer.write(server.model.layer[:1000])
        await server.released.wait()
        return answer

    server.script = on("/blobs/", stall)
    started = time.monotonic()
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await download(make(), server)
    assert time.monotonic() - started < 3


async def test_a_server_that_never_answers_ends_with_the_head_limit(make: Make, server: FaultyRegistry) -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await server.released.wait()
        return web.Response()

    server.script = on("/manifests/", silent)
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await pull(make(), server.reference)
    assert len(server.seen) == 1


async def test_cancelling_a_download_closes_its_connection(make: Make, server: FaultyRegistry) -> None:
    gone = asyncio.Event()
    layer = server.model.artifact.manifest.layers[0]

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(layer.size)})
        await answer.prepare(request)
        await answer.write(b"x")
        try:
            await asyncio.Event().wait()  # the server cancels it when the client is gone
        finally:
            gone.set()
        return answer

    server.script = on("/blobs/", endless)
    registry, begun = make(timeouts=Timeouts()), asyncio.Event()

    async def receive() -> None:
        async with registry.session(server.reference) as session, session.read_blob(layer) as reader:
            async for _ in reader.chunks:
                begun.set()

    task = asyncio.create_task(receive())
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_range_that_is_not_granted_starts_over(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/blobs/", always(body=server.model.layer))
    assert await download(make(), server, 1000) == (0, server.model.layer)


async def test_a_range_the_registry_cannot_satisfy_starts_over(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/blobs/", always(status=416), times=1)
    assert await download(make(), server, 1000) == (0, server.model.layer)


@pytest.mark.parametrize(
    "span", ["bytes 0-9/10", "bytes 1001-1048575/1048576", "bytes 1000-1048575/7", f"bytes {'1' * 5000}-1/1", "", "x"]
)
async def test_another_range_than_asked_for_is_refused(make: Make, server: FaultyRegistry, span: str) -> None:
    server.script = on("/blobs/", always(status=206, body=server.model.layer[1000:], headers={"Content-Range": span}))
    with pytest.raises(RegistryError, match="another range"):
        await download(make(), server, 1000)


async def test_a_blob_of_another_size_than_the_manifest_says_is_refused(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/blobs/", always(body=server.model.layer + b"!"))
    with pytest.raises(RegistryError, match="the manifest says"):
        await download(make(), server)


async def test_a_blob_that_does_not_end_is_stopped(make: Make, server: FaultyRegistry) -> None:
    async def more(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(server.model.layer + b"!")
        return answer

    server.script = on("/blobs/", more)
    with pytest.raises(RegistryError, match="sends more"):
        await download(make(), server)


async def test_an_encoded_blob_is_refused(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/blobs/", always(body=server.model.layer, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(RegistryError, match="encoding"):
        await download(make(), server)
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


# --- trying again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_tried_again(
    make: Make, server: FaultyRegistry, clock: ImpatientClock, status: int
) -> None:
    server.script = on("/manifests/", always(status=status), times=2)
    await pull(make(), server.reference)
    assert len(server.seen) == 3
    assert 0 < clock.waits[0] < clock.waits[1] < 1


async def test_a_failure_that_does_not_pass_is_told_after_a_few_attempts(
    make: Make, server: FaultyRegistry, clock: ImpatientClock
) -> None:
    server.script = on("/manifests/", always(status=503))
    with pytest.raises(RegistryError, match="503"):
        await pull(make(), server.reference)
    assert len(server.seen) == 5


@pytest.mark.parametrize("status", [400, 404, 405, 410, 418, 501])
async def test_a_refusal_is_not_tried_again(make: Make, server: FaultyRegistry, status: int) -> None:
    server.script = on("/manifests/", always(status=status, text="<html>no</html>"))
    with pytest.raises(RemoteModelNotFoundError if status == 404 else RegistryError):
        await pull(make(), server.reference)
    assert len(server.seen) == 1


async def test_retry_after_is_waited_for(make: Make, server: FaultyRegistry, clock: ImpatientClock) -> None:
    server.script = on("/manifests/", always(status=429, headers={"Retry-After": "7"}), times=1)
    await pull(make(), server.reference)
    assert clock.waits == [7]


async def test_a_retry_after_of_an_hour_is_told_at_once(
    make: Make, server: FaultyRegistry, clock: ImpatientClock
) -> None:
    async def limited(_request: web.Request) -> web.StreamResponse:
        return refuse(429, "TOOMANYREQUESTS", "pull rate limit", Retry_After="3600")

    server.script = on("/manifests/", limited)
    with pytest.raises(RegistryError, match=r"429.*TOOMANYREQUESTS: pull rate limit"):
        await pull(make(), server.reference)
    assert clock.waits == []


async def test_a_reset_connection_is_tried_again(make: Make, server: FaultyRegistry) -> None:
    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.script = on("/manifests/", reset, times=2)
    await pull(make(), server.reference)


async def test_a_refused_connection_is_told_quickly(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(RegistryUnreachableError, match=rf"{host}.*connection refused"):
            await pull(make(clock=SystemClock(), timeouts=Timeouts()), Reference(host, "ai/m"))
        assert time.monotonic() - started < 1.5
        named = host.replace("127.0.0.1", "localhost")
        with pytest.raises(RegistryUnreachableError, match="connection refused"):
            await pull(make(timeouts=Timeouts()), Reference(named, "ai/m"))


async def test_a_name_that_does_not_resolve_is_said_so(make: Make) -> None:
    with pytest.raises(RegistryUnreachableError, match=r"no-such-host\.invalid.*does not resolve"):
        await pull(make(timeouts=Timeouts()), Reference("no-such-host.invalid", "ai/m"))


async def test_a_server_that_speaks_no_tls_is_said_so(make: Make, server: FaultyRegistry) -> None:
    registry = make(endpoints=_Everywhere())
    with pytest.raises(RegistryUnreachableError, match="cannot speak TLS"):
        await pull(registry, server.reference)


class _Everywhere(EndpointPolicy):
    """https even on loopback."""

    def _is_plain(self, registry: str, host: str) -> bool:
        return False


# --- being let in -----------------------------------------------------------------------------------


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def wants(header: str, challenge: str, then: Script | None = None) -> Script:
    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.path.startswith("/v2/") and request.headers.get("Authorization") != header:
            return refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
        return await then(request) if then else None

    return script


async def test_a_basic_challenge_is_answered_with_the_login(make: Make, server: FaultyRegistry) -> None:
    server.script = wants(basic("me", "secret"), 'Basic realm="Registry"')
    registry = make(credentials=Keys({server.host: _LOGIN}))
    async with registry.session(server.reference) as session:
        await session.manifest()
        await session.config(server.model.artifact.manifest.config)
    assert [request.authorization for request in server.seen] == [None, basic("me", "secret"), basic("me", "secret")]


@pytest.mark.parametrize("keys", [{}, {"elsewhere.example": _LOGIN}])
async def test_a_basic_challenge_without_a_login_for_it_is_unauthorized(
    make: Make, server: FaultyRegistry, keys: dict[str, Secret]
) -> None:
    server.script = wants(basic("me", "secret"), 'Basic realm="Registry"')
    with pytest.raises(UnauthorizedError, match="does not exist, or needs 'docker login"):
        await pull(make(credentials=Keys(keys)), server.reference)
    assert [request.authorization for request in server.seen] == [None]


async def test_a_wrong_login_is_tried_once(make: Make, server: FaultyRegistry) -> None:
    server.script = wants(basic("me", "secret"), 'Basic realm="Registry"')
    with pytest.raises(UnauthorizedError):
        await pull(make(credentials=Keys({server.host: Login("me", "wrong")})), server.reference)
    assert len(server.seen) == 2


async def test_an_unknown_scheme_is_named(make: Make, server: FaultyRegistry) -> None:
    server.script = wants("Negotiate x", "Negotiate")
    with pytest.raises(RegistryError, match="wants negotiate"):
        await pull(make(), server.reference)


@attrs.define
class TokenServer:
    """A token server in front of a registry on the same port; ``valid`` are the tokens it gave out."""

    server: FaultyRegistry
    realm: str = ""
    lifetime: object = 300
    accept: Callable[[Seen], bool] = lambda _request: True
    valid: set[str] = attrs.field(factory=set)
    asked: list[Seen] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.realm = self.realm or f"http://{self.server.host}/token"

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            seen = self.server.seen[-1]
            self.asked.append(seen)
            if not self.accept(seen):
                return web.Response(status=401, text="TOP SECRET from an inner service")
            token = f"token-{len(self.asked)}"
            self.valid.add(f"Bearer {token}")
            return web.json_response({"token": token, "expires_in": self.lifetime})
        if request.headers.get("Authorization") not in self.valid:
            name = request.path.split("/")[2:4]
            challenge = f'Bearer realm="{self.realm}",service="svc",scope="repository:{"/".join(name)}:pull"'
            return refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
        return None


async def test_a_token_is_fetched_once_for_a_repository_and_kept(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    registry = make(credentials=Keys({server.host: _LOGIN}))
    await pull(registry, server.reference)
    await pull(registry, server.reference)
    assert [parse_qs(request.query) for request in tokens.asked] == [
        {"service": ["svc"], "scope": ["repository:ai/model:pull"]}
    ]
    assert tokens.asked[0].authorization == basic("me", "secret")
    assert {request.authorization for request in server.seen if request.path.startswith("/v2/")} == {
        None,
        "Bearer token-1",
    }


async def test_pushing_asks_for_a_scope_that_may_push(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    async with make().session(server.reference, push=True) as session:
        assert await session.has_blob(server.model.artifact.manifest.config)
        await session.push_blob(*upload(b"bytes"), lambda _count: None)
    assert [parse_qs(request.query)["scope"] for request in tokens.asked] == [["repository:ai/model:pull,push"]]
    assert tokens.asked[0].authorization is None


async def test_another_repository_gets_another_token(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    registry = make()
    await pull(registry, server.reference)
    with pytest.raises(RemoteModelNotFoundError):
        await pull(registry, Reference(server.host, "ai/other"))
    assert len(tokens.asked) == 2


async def test_an_expired_token_is_renewed_before_it_is_used(
    make: Make, server: FaultyRegistry, clock: ImpatientClock
) -> None:
    tokens = server.script = TokenServer(server)
    async with make().session(server.reference) as session:
        await session.manifest()
        clock.ahead += 295  # of 300; too close to the end
        await session.manifest()
    assert len(tokens.asked) == 2
    assert [request.authorization for request in server.seen if request.path.startswith("/v2/")] == [
        None,
        "Bearer token-1",
        "Bearer token-2",
    ]


async def test_a_token_the_registry_no_longer_takes_is_renewed_once(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    registry = make()
    async with registry.session(server.reference) as session:
        await session.manifest()
        tokens.valid.clear()
        await session.manifest()
    tokens.valid.clear()
    await pull(registry, server.reference)  # a new session finds the kept token refused
    assert len(tokens.asked) == 3


async def test_requests_at_once_share_one_token(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    async with make().session(server.reference) as session:
        await asyncio.gather(*(session.manifest() for _ in range(8)))
    assert len(tokens.asked) == 1


async def test_a_closed_or_missing_repository_is_told_with_both_possibilities(
    make: Make, server: FaultyRegistry
) -> None:
    """Docker Hub gives anybody a token, and answers 401 for what does not exist."""
    tokens = server.script = TokenServer(server)
    tokens.valid = _Nothing()
    with pytest.raises(UnauthorizedError, match="does not exist, or needs 'docker login"):
        await pull(make(), server.reference)
    assert len(tokens.asked) == 1


class _Nothing(set[str]):
    def __contains__(self, _item: object) -> bool:
        return False


async def test_the_words_of_a_token_server_are_not_repeated(make: Make, server: FaultyRegistry) -> None:
    server.script = TokenServer(server, accept=lambda _request: False)
    with pytest.raises(UnauthorizedError) as raised:
        await pull(make(credentials=Keys({server.host: _LOGIN})), server.reference)
    assert "TOP SECRET" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"token": 5}', b'{"token": "a\\r\\nb"}', b"x" * 300_000])
async def test_what_is_no_token_is_not_used(make: Make, server: FaultyRegistry, answer: bytes) -> None:
    tokens = TokenServer(server)

    async def script(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=answer) if request.path == "/token" else await tokens(request)

    server.script = script
    with pytest.raises(RegistryError, match="did not answer with a token"):
        await pull(make(), server.reference)


async def test_an_identity_token_is_posted_to_the_token_server(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    await pull(make(credentials=Keys({server.host: IdentityToken("idem")})), server.reference)
    assert [(request.method, parse_qs(request.body.decode())) for request in tokens.asked] == [
        (
            "POST",
            {
                "grant_type": ["refresh_token"],
                "service": ["svc"],
                "client_id": ["dmr"],
                "scope": ["repository:ai/model:pull"],
                "refresh_token": ["idem"],
            },
        )
    ]


async def test_a_token_of_the_request_is_used_as_it_is_where_it_is_taken(make: Make, server: FaultyRegistry) -> None:
    tokens = server.script = TokenServer(server)
    tokens.valid.add("Bearer mine")
    registry = make(credentials=Keys({server.host: _LOGIN}))
    await pull(registry, server.reference, Credentials("mine"))
    assert tokens.asked == []
    assert [request.authorization for request in server.seen] == [None, "Bearer mine"]


async def test_a_token_of_the_request_that_is_not_taken_is_an_identity_token(
    make: Make, server: FaultyRegistry
) -> None:
    tokens = server.script = TokenServer(server)
    registry = make(credentials=Keys({server.host: _LOGIN}))
    await pull(registry, server.reference, Credentials("refresh-me"))
    assert [parse_qs(request.body.decode())["refresh_token"] for request in tokens.asked] == [["refresh-me"]]
    assert registry._tokens._tokens == {}  # what a request's credentials bought is not kept for others
    await pull(registry, server.reference)  # without it: the machine's own login, and its own token
    assert tokens.asked[-1].authorization == basic("me", "secret")


async def test_a_token_no_header_can_hold_is_refused_before_it_is_sent(make: Make, server: FaultyRegistry) -> None:
    server.script = TokenServer(server)
    with pytest.raises(UnauthorizedError, match="characters"):
        await pull(make(), server.reference, Credentials("a\r\nX-Evil: 1"))
    assert [request.authorization for request in server.seen] == [None]


# --- who may see what -------------------------------------------------------------------------------


async def test_credentials_do_not_follow_a_redirect_to_another_host(make: Make, server: FaultyRegistry) -> None:
    async with faulty_registry() as storage:
        away = f"http://localhost:{storage.port}/v2/ai/model/blobs/"
        layer = server.model.artifact.manifest.layers[0]

        async def redirect(request: web.Request) -> web.StreamResponse | None:
            if "/blobs/" in request.path:
                return web.Response(status=307, headers={"Location": away + f"{layer.digest}?sig=a%2Fb+c%3D&x"})
            return None

        server.script = wants(basic("me", "secret"), 'Basic realm="r"', redirect)
        registry = make(credentials=Keys({server.host: _LOGIN, f"localhost:{storage.port}": Login("other", "other")}))
        assert await download(registry, server, 1000) == (1000, server.model.layer[1000:])
    (seen,) = storage.seen
    assert seen.authorization is None
    assert seen.headers["Range"] == "bytes=1000-"
    assert seen.query == "sig=a%2Fb+c%3D&x"


async def test_a_challenge_of_another_host_gets_nothing(make: Make, server: FaultyRegistry) -> None:
    async with faulty_registry() as storage:
        storage.script = wants(basic("me", "secret"), 'Basic realm="r"')
        away = f"http://localhost:{storage.port}/v2/ai/model/x"
        server.script = on("/blobs/", always(status=302, headers={"Location": away}))
        with pytest.raises(RegistryError, match="'localhost' answered 401") as raised:
            await download(make(credentials=Keys({server.host: _LOGIN})), server)
        assert "authentication required" not in str(raised.value)
    assert [request.authorization for request in storage.seen] == [None]


async def test_a_redirect_within_the_host_keeps_the_credentials(make: Make, server: FaultyRegistry) -> None:
    layer = server.model.artifact.manifest.layers[0]
    location = f"/v2/ai/model/blobs/{layer.digest}"

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        return (
            web.Response(status=307, headers={"Location": location})
            if not request.query_string and len(server.paths()) < 3
            else None
        )

    server.script = wants(basic("me", "secret"), 'Basic realm="r"', redirect)
    await download(make(credentials=Keys({server.host: _LOGIN})), server)
    assert [request.authorization for request in server.seen] == [None] + [basic("me", "secret")] * 2


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://user:pass@127.0.0.1/", "http://[", "gopher:x", "http://a b/"]
)
async def test_a_redirect_to_no_web_address_is_refused(make: Make, server: FaultyRegistry, location: str) -> None:
    server.script = on("/blobs/", always(status=307, headers={"Location": location}))
    with pytest.raises(RegistryError):
        await download(make(), server)
    assert len(server.seen) == 1


async def test_redirects_in_a_circle_end(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/blobs/", always(status=307, headers={"Location": "/v2/ai/model/blobs/again"}))
    with pytest.raises(RegistryError, match="more than 10"):
        await download(make(), server)
    assert len(server.seen) == 11


async def test_a_registry_out_in_the_world_cannot_send_us_inside(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world is reached through a proxy here, which is the stand-in itself."""
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    monkeypatch.setenv("no_proxy", "")
    async with faulty_registry() as inner:
        registry = make(
            endpoints=EndpointPolicy(insecure=frozenset({"evil.example"})),
            credentials=Keys({"evil.example": _LOGIN}),
        )
        server.script = wants("nothing", f'Bearer realm="http://127.0.0.1:{inner.port}/admin",service="s"')
        with pytest.raises(RegistryError, match="inside this network"):
            await pull(registry, Reference("evil.example", "ai/model"))
        server.script = on("/", always(status=307, headers={"Location": f"http://localhost:{inner.port}/admin"}))
        with pytest.raises(RegistryError, match="inside this network"):
            await pull(registry, Reference("evil.example", "ai/model"))
        assert inner.seen == []
    assert {request.headers["Host"] for request in server.seen} == {"evil.example"}


async def test_the_proxy_is_not_asked_for_this_machine(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    await pull(make(), server.reference)


async def test_a_password_of_the_proxy_goes_to_the_proxy(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://u:p@{server.host}")
    monkeypatch.setenv("no_proxy", "")
    await pull(make(endpoints=EndpointPolicy(everything_insecure=True)), Reference("far.example", "ai/model"))
    assert server.seen[0].headers["Proxy-Authorization"] == basic("u", "p")


async def test_netrc_is_not_read(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    await pull(make(), server.reference)
    assert server.seen[0].authorization is None


# --- pushing ----------------------------------------------------------------------------------------


def upload(content: bytes, calls: list[int] | None = None) -> tuple[Descriptor, BlobSource]:
    return Descriptor(media_type="x", digest=Digest.of(content), size=len(content)), bytes_of(content, calls)


async def test_an_upload_keeps_the_query_of_its_place(make: Make, server: FaultyRegistry) -> None:
    descriptor, source = upload(b"some bytes")
    async with make().session(server.reference, push=True) as session:
        await session.push_blob(descriptor, source, lambda _count: None)
    assert server.seen[-1].query == f"state=a%2Fb&digest={descriptor.digest}"
    assert server.seen[-1].headers["Content-Length"] == "10"


async def test_an_upload_elsewhere_brings_no_credentials(make: Make, server: FaultyRegistry) -> None:
    async with faulty_registry() as storage:
        place = f"http://localhost:{storage.port}/v2/ai/model/blobs/uploads/9"
        server.script = wants(
            basic("me", "secret"), 'Basic realm="r"', on("/uploads/", always(status=202, headers={"Location": place}))
        )
        async with make(credentials=Keys({server.host: _LOGIN})).session(server.reference, push=True) as session:
            await session.push_blob(*upload(b"some bytes"), lambda _count: None)
    assert [(request.method, request.authorization) for request in storage.seen] == [("PUT", None)]


async def test_a_failed_upload_is_done_again_from_the_start(make: Make, server: FaultyRegistry) -> None:
    calls: list[int] = []
    counts: list[int] = []
    content = b"u" * 200_000

    async def fail_once(request: web.Request) -> web.StreamResponse | None:
        await request.read()
        return web.Response(status=500) if request.method == "PUT" and server.paths("PUT") == [request.path] else None

    server.script = fail_once
    async with make().session(server.reference, push=True) as session:
        await session.push_blob(*upload(content, calls), counts.append)
    assert calls == [0, 0]
    assert counts[-1] == len(content)
    assert server.blobs[str(Digest.of(content))] == content


async def test_a_registry_that_stops_taking_bytes_is_noticed(make: Make, server: FaultyRegistry) -> None:
    async def lazy(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            await server.released.wait()
        return None

    server.script = lazy
    async with make().session(server.reference, push=True) as session:
        with pytest.raises(RegistryUnreachableError, match="stopped answering"):
            await session.push_blob(*upload(b"x" * (64 << 20)), lambda _count: None)


async def test_a_registry_that_does_not_confirm_is_noticed(make: Make, server: FaultyRegistry) -> None:
    async def lazy(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            await request.read()
            await server.released.wait()
        return None

    server.script = lazy
    async with make().session(server.reference, push=True) as session:
        with pytest.raises(RegistryUnreachableError, match="stopped answering"):
            await session.push_blob(*upload(b"x" * 5000), lambda _count: None)


async def test_a_registry_may_take_its_time_to_verify_what_it_got(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable_upload, "_HASHING_RATE", 500)

    async def slow(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            await request.read()
            await asyncio.sleep(3 * _SHORT.stall)
        return None

    server.script = slow
    async with make().session(server.reference, push=True) as session:
        await session.push_blob(*upload(b"x" * 5000), lambda _count: None)


async def test_what_goes_wrong_at_the_source_is_told_as_it_is(make: Make, server: FaultyRegistry) -> None:
    async def broken(_offset: int) -> AsyncIterator[bytes]:
        yield b"x" * 1000
        raise DmrError("the disk is gone")

    async with make().session(server.reference, push=True) as session:
        with pytest.raises(DmrError, match="the disk is gone"):
            await session.push_blob(upload(b"x" * 5000)[0], broken, lambda _count: None)
    assert server.paths("POST") == ["/v2/ai/model/blobs/uploads/"]


async def test_a_source_that_is_too_short_is_said_so(make: Make, server: FaultyRegistry) -> None:
    async with make().session(server.reference, push=True) as session:
        with pytest.raises(RegistryError, match="has 3 bytes, its descriptor says 5000"):
            await session.push_blob(upload(b"x" * 5000)[0], bytes_of(b"abc"), lambda _count: None)


async def test_a_registry_that_stored_something_else_is_found_out(make: Make, server: FaultyRegistry) -> None:
    told = {"Docker-Content-Digest": str(Digest.of(b"other"))}

    async def other(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=201, headers=told) if request.method == "PUT" else None

    server.script = other
    async with make().session(server.reference, push=True) as session:
        with pytest.raises(DigestMismatchError):
            await session.push_blob(*upload(b"mine"), lambda _count: None)
        with pytest.raises(DigestMismatchError):
            await session.push_manifest(b"{}", "application/json")


async def test_a_manifest_arrives_byte_for_byte(make: Make, server: FaultyRegistry) -> None:
    content = json.dumps({"b": 1, "a": "\u00e9"}).encode()
    async with make().session(attrs.evolve(server.reference, tag="v2"), push=True) as session:
        await session.push_manifest(content, "application/vnd.test+json")
    seen = server.seen[-1]
    assert (seen.method, seen.path, seen.body) == ("PUT", "/v2/ai/model/manifests/v2", content)
    assert seen.headers["Content-Type"] == "application/vnd.test+json"
    assert seen.headers["User-Agent"].startswith("dmr/")


async def test_retries_can_be_switched_off(make: Make, server: FaultyRegistry) -> None:
    server.script = on("/manifests/", always(status=503))
    with pytest.raises(RegistryError):
        await pull(make(retry=RetryPolicy(attempts=1)), server.reference)
    assert len(server.seen) == 1
