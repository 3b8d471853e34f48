"""Uploads to a registry that misbehaves: the right bytes arrive or a clear error does, and no credential leaks."""

from __future__ import annotations

import asyncio
import base64
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import attrs
import pytest
from aiohttp import web

from dmr_adapters.clock import SystemClock
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.blob_upload import UploadPolicy
from dmr_adapters.registry.client import Timeouts
from dmr_adapters.registry.credentials import CredentialStore, Login, Secret
from dmr_adapters.registry.endpoint import EndpointPolicy
from dmr_adapters.registry.oci import OciRegistry
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.errors import DigestMismatchError, DmrError, RegistryError, RegistryUnreachableError, UnauthorizedError
from dmr_core.ports.registry import BlobSource
from tests.stand_ins.faulty_registry import FaultyRegistry, Script, Seen, faulty_registry, refuse
from tests.stand_ins.upload_desk import UploadDesk

_SHORT = Timeouts(connect=2, head=0.3, stall=0.3, document=2)
_CHUNK = 16 * 1024
_POLICY = UploadPolicy(chunk=_CHUNK, smallest_chunk=4096)
_CONTENT = bytes(index * 31 % 251 for index in range(40_000))


class ImpatientClock(SystemClock):
    """Notes every wait and does not wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


class Keys(CredentialStore):
    """Knows one login for everything; so whoever asks for credentials gets some."""

    async def find(self, registry: str) -> Secret | None:
        return Login("me", "s3cret")


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
        settings = {"timeouts": _SHORT, "clock": clock, "uploads": _POLICY} | options
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


@pytest.fixture
def desk(server: FaultyRegistry) -> UploadDesk:
    desk = UploadDesk(server)
    server.script = desk
    return desk


def source_of(content: bytes, calls: list[int] | None = None) -> BlobSource:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        if calls is not None:
            calls.append(offset)
        for start in range(offset, len(content), 10_000):
            yield content[start : start + 10_000]

    return chunks


def blob_of(content: bytes) -> Descriptor:
    return Descriptor(media_type="x", digest=Digest.of(content), size=len(content))


async def push(registry: OciRegistry, server: FaultyRegistry, content: bytes = _CONTENT) -> list[int]:
    """Send a blob; what was told about its progress."""
    counts: list[int] = []
    async with registry.session(server.reference, push=True) as session:
        await session.push_blob(blob_of(content), source_of(content), counts.append)
    return counts


def stored(server: FaultyRegistry, content: bytes = _CONTENT) -> bytes | None:
    return server.blobs.get(str(Digest.of(content)))


def first(method: str, answer: Callable[[web.Request], web.StreamResponse], then: Script, times: int = 1) -> Script:
    """``answer`` to the first requests of a method, whose bodies are read; everything else is ``then``'s."""
    left = times

    async def script(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        if request.method != method or left <= 0:
            return await then(request)
        left -= 1
        await request.read()
        return answer(request)

    return script


# --- chunks -----------------------------------------------------------------------------------------


async def test_a_large_blob_goes_in_chunks(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    counts = await push(make(), server)
    assert stored(server) == _CONTENT
    spans = [seen.headers["Content-Range"] for seen in server.seen if seen.method == "PATCH"]
    assert spans == ["0-16383", "16384-32767", "32768-39999"]
    assert desk.received == len(_CONTENT)
    assert counts == sorted(counts)
    assert counts[-1] == len(_CONTENT)


async def test_a_small_blob_goes_in_one_piece(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    await push(make(), server, _CONTENT[:_CHUNK])
    assert stored(server, _CONTENT[:_CHUNK]) == _CONTENT[:_CHUNK]
    assert [seen.method for seen in server.seen] == ["POST", "PUT"]


async def test_chunks_are_as_long_as_the_registry_wants_at_least(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    desk.least = 30_000
    await push(make(), server)
    spans = [seen.headers["Content-Range"] for seen in server.seen if seen.method == "PATCH"]
    assert spans == ["0-29999", "30000-39999"]
    assert stored(server) == _CONTENT


_STEPS = 20  # of a push: the arrivals, the pieces of bodies and the answers


async def test_the_cuts_reach_every_step_of_a_push(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    await push(make(), server)
    assert desk.steps == _STEPS


@pytest.mark.parametrize("step", range(1, _STEPS + 1))
async def test_a_connection_cut_anywhere_costs_nothing_that_the_registry_has(
    make: Make, server: FaultyRegistry, desk: UploadDesk, step: int
) -> None:
    desk.resets = frozenset({step})
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert desk.received == len(_CONTENT)


async def test_an_empty_place_is_begun_at_its_first_byte(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    """Its range is ``0-0``, as that of a place with one byte."""
    desk.resets = frozenset({3})
    await push(make(), server)
    spans = [seen.headers["Content-Range"] for seen in server.seen if seen.method == "PATCH"]
    assert spans == ["0-16383", "0-16383", "16384-32767", "32768-39999"]


async def test_a_registry_that_says_to_have_what_was_never_sent_is_not_believed(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    desk.resets = frozenset({5})

    async def boast(request: web.Request) -> web.StreamResponse | None:
        if request.method != "GET":
            return await desk(request)
        return web.Response(status=204, headers={"Location": str(request.rel_url), "Range": "0-39999"})

    server.script = boast
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert len(server.paths("PUT")) == 1


@pytest.mark.parametrize("step", range(1, _STEPS + 1))
async def test_a_cut_at_a_registry_whose_old_addresses_end_costs_a_new_upload_at_most(
    make: Make, server: FaultyRegistry, desk: UploadDesk, step: int
) -> None:
    desk.resets, desk.moves = frozenset({step}), True
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert desk.received <= 2 * len(_CONTENT)


async def test_an_upload_that_breaks_all_the_time_but_gets_further_arrives(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    desk.resets = frozenset(range(5, 10_000, 5))
    await push(make(), server)
    assert stored(server) == _CONTENT


@pytest.mark.parametrize("status", [400, 404, 405, 416, 501])
async def test_a_registry_that_takes_no_chunks_gets_whole_blobs(
    make: Make, server: FaultyRegistry, desk: UploadDesk, status: int
) -> None:
    server.script = first("PATCH", lambda _request: refuse(status, "UNSUPPORTED", "no chunks"), desk, times=100)
    registry, other = make(), _CONTENT[::-1]
    async with registry.session(server.reference, push=True) as session:
        for content in (_CONTENT, other):
            await session.push_blob(blob_of(content), source_of(content), lambda _count: None)
    assert (stored(server), stored(server, other)) == (_CONTENT, other)
    assert len(server.paths("PATCH")) == 1, "what a registry refused once it is not offered again"
    assert not desk.places, "the place that was of no use is given back"


async def test_a_chunk_that_is_too_large_is_followed_by_smaller_ones(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def small_only(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH" and (request.content_length or 0) > 5000:
            return refuse(413, "SIZE_INVALID", "too large")
        return await desk(request)

    server.script = small_only
    await push(make(), server)
    assert stored(server) == _CONTENT
    lengths = [int(seen.headers["Content-Length"]) for seen in server.seen if seen.method == "PATCH"]
    assert lengths[:2] == [_CHUNK, _CHUNK // 4]
    assert max(lengths[1:]) == _CHUNK // 4


async def test_a_blob_that_is_too_large_for_one_piece_goes_in_chunks(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    """As behind a proxy with a limit for bodies."""

    async def small_only(request: web.Request) -> web.StreamResponse | None:
        if request.method in {"PATCH", "PUT"} and (request.content_length or 0) > 5000:
            return web.Response(status=413, text="<html>413 Request Entity Too Large</html>")
        return await desk(request)

    server.script = small_only
    content = _CONTENT[:_CHUNK]
    await push(make(), server, content)
    assert stored(server, content) == content
    assert len(server.paths("PATCH")) == 4


async def test_a_registry_that_finds_everything_too_large_is_an_error(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def nothing(request: web.Request) -> web.StreamResponse | None:
        if request.method in {"PATCH", "PUT"}:
            return refuse(413, "SIZE_INVALID", "too large")
        return await desk(request)

    server.script = nothing
    with pytest.raises(RegistryError, match="413"):
        await push(make(), server)
    assert not desk.places


@pytest.mark.parametrize("told", ["0-99999", "7-16383", "bytes 0-5/9", "-1", "0-" + "9" * 30, ""])
async def test_a_range_that_cannot_be_is_not_believed(
    make: Make, server: FaultyRegistry, desk: UploadDesk, told: str
) -> None:
    def lie(request: web.Request) -> web.Response:
        return web.Response(status=202, headers={"Location": str(request.rel_url), "Range": told})

    server.script = first("PATCH", lie, desk)
    await push(make(), server)
    assert stored(server) == _CONTENT


async def test_a_registry_that_always_lies_about_ranges_is_an_error(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    def lie(request: web.Request) -> web.Response:
        return web.Response(status=202, headers={"Location": str(request.rel_url), "Range": "0-99999"})

    server.script = first("PATCH", lie, desk, times=10_000)
    with pytest.raises(RegistryError, match="other bytes than it was sent"):
        await push(make(), server)
    assert len(server.paths("PATCH")) < 10


async def test_a_chunk_taken_in_part_is_gone_on_with(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    async def half(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PATCH" or len(server.paths("PATCH")) > 1:
            return await desk(request)
        name = request.path.rpartition("/")[2]
        desk.places[name] += (await request.read())[:1000]
        return desk.place(desk.places[name], 202, name)

    server.script = half
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert [seen.headers["Content-Range"] for seen in server.seen if seen.method == "PATCH"][1] == "1000-17383"


async def test_a_registry_that_takes_a_byte_of_every_chunk_is_an_error(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def drip(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PATCH":
            return await desk(request)
        name = request.path.rpartition("/")[2]
        desk.places[name] += (await request.read())[:2]
        return desk.place(desk.places[name], 202, name)

    server.script = drip
    with pytest.raises(RegistryError, match="takes chunks in part only"):
        await push(make(), server)
    assert len(server.paths("PATCH")) < 10


async def test_an_upload_that_the_registry_forgets_is_begun_anew(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def forget(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH" and len(server.paths("PATCH")) == 2:
            desk.places.clear()
        return await desk(request)

    server.script = forget
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert len(server.paths("POST")) == 2


async def test_an_upload_forgotten_before_it_is_closed_is_begun_anew(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    def unknown(_request: web.Request) -> web.Response:
        desk.places.clear()
        return refuse(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown")

    server.script = first("PUT", unknown, desk)
    await push(make(), server)
    assert stored(server) == _CONTENT


async def test_a_registry_that_forgets_every_upload_is_an_error(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def forget(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Content-Range", "").startswith("16384-"):
            desk.places.clear()
        return await desk(request)

    server.script = forget
    with pytest.raises(RegistryError, match="forgets uploads"):
        await push(make(), server)
    assert len(server.paths("POST")) < 10


async def test_an_upload_joined_wrongly_by_the_registry_is_sent_again_whole(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    """Its count after a break is right, its bytes are not: some storage drivers lose the end of a broken append."""
    desk.resets = frozenset({9})

    async def mangle(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET":
            (content,) = desk.places.values()
            content[-1] ^= 0xFF
        return await desk(request)

    server.script = mangle
    await push(make(), server)
    assert stored(server) == _CONTENT


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_too_many_requests_waits_as_long_as_asked(
    make: Make, server: FaultyRegistry, desk: UploadDesk, clock: ImpatientClock, method: str
) -> None:
    server.script = first(method, lambda _request: refuse(429, "TOOMANYREQUESTS", "slow", Retry_After="7"), desk)
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert max(clock.waits) == 7


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_an_answer_that_does_not_come_is_noticed(
    make: Make, server: FaultyRegistry, desk: UploadDesk, method: str
) -> None:
    async def silent(request: web.Request) -> web.StreamResponse | None:
        if request.method == method:
            await request.read()
            await server.released.wait()
        return await desk(request)

    server.script = silent
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await push(make(), server)


async def test_a_stall_after_some_chunks_is_survived(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    async def silent(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH" and len(server.paths("PATCH")) in {2, 4}:
            await request.read()
            await server.released.wait()
        return await desk(request)

    server.script = silent
    await push(make(), server)
    assert stored(server) == _CONTENT
    spans = [seen.headers["Content-Range"].partition("-")[0] for seen in server.seen if seen.method == "PATCH"]
    assert spans == ["0", "16384", "16384", "32768", "32768"]


async def test_a_stall_at_the_same_place_again_is_an_error(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def silent(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Content-Range", "").startswith("16384-"):
            await request.read()
            await server.released.wait()
        return await desk(request)

    server.script = silent
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await push(make(), server)
    assert len(server.paths("PATCH")) == 3


async def test_a_chunk_that_nobody_reads_is_noticed(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    async def lazy(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH":
            await server.released.wait()
        return await desk(request)

    server.script = lazy
    content = bytes(48 << 20)
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await push(make(uploads=UploadPolicy(chunk=32 << 20)), server, content)


@pytest.mark.parametrize("size", [_CHUNK, len(_CONTENT)])
async def test_a_digest_of_other_bytes_is_found_out(
    make: Make, server: FaultyRegistry, desk: UploadDesk, size: int
) -> None:
    told = {"Docker-Content-Digest": str(Digest.of(b"other"))}
    server.script = first("PUT", lambda _request: web.Response(status=201, headers=told), desk)
    with pytest.raises(DigestMismatchError):
        await push(make(), server, _CONTENT[:size])


async def test_a_source_that_fails_in_a_later_chunk_ends_the_upload_and_gives_its_place_back(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async def broken(offset: int) -> AsyncIterator[bytes]:
        if offset:
            raise DmrError("the disk is gone")
        yield _CONTENT

    async with make().session(server.reference, push=True) as session:
        with pytest.raises(DmrError, match="the disk is gone"):
            await session.push_blob(blob_of(_CONTENT), broken, lambda _count: None)
    assert desk.cancelled == ["u1"]
    assert not desk.places


@pytest.mark.parametrize("tenth", range(6))
async def test_whatever_happens_the_bytes_are_right_or_an_error_is_told(make: Make, tenth: int) -> None:
    """Ten schedules of mischief each, of which some must let the blob arrive, or this would say nothing."""
    arrived = [await _mischief(make, seed) for seed in range(10 * tenth, 10 * tenth + 10)]
    assert arrived.count(True) >= 2, arrived


async def _mischief(make: Make, seed: int) -> bool:
    """Cuts, refusals and moves by chance; every third seed on another host, whose challenges want the login."""
    chance = random.Random(seed)
    async with faulty_registry() as server, faulty_registry() as storage:
        desk = UploadDesk(
            server,
            resets=frozenset(step for step in range(1, 500) if chance.random() < 0.08),
            moves=chance.random() < 0.3,
            least=chance.choice([0, 0, 20_000]),
            elsewhere="" if seed % 3 else f"http://localhost:{storage.port}",
        )

        async def mischief(request: web.Request) -> web.StreamResponse | None:
            if "/uploads/" not in request.path or chance.random() > 0.12:
                return await desk(request)
            await request.read()
            status = chance.choice([401, 404, 408, 416, 429, 500, 502, 503])
            return refuse(status, "X", "by chance", WWW_Authenticate='Basic realm="mine"', Retry_After="1")

        storage.script, server.script = mischief, wants_login(mischief if seed % 3 else desk)
        try:
            await push(make(credentials=Keys()), server)
            arrived = True
        except (RegistryError, UnauthorizedError):
            arrived = False
        assert stored(server) == _CONTENT or (not arrived and stored(server) is None)
        assert len(server.seen) + len(storage.seen) < 200
        assert not [seen for seen in storage.seen if "Authorization" in seen.headers]
        return arrived


# --- where to ---------------------------------------------------------------------------------------


def wants_login(then: Script, header: str = "Basic " + base64.b64encode(b"me:s3cret").decode()) -> Script:
    """Nothing without the login of ``Keys``."""

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == header:
            return await then(request)
        await request.read()
        return refuse(401, "UNAUTHORIZED", "log in", WWW_Authenticate='Basic realm="r"')

    return script


async def test_an_upload_on_another_host_gets_the_bytes_and_no_credentials(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    """With a challenge there, too: a Basic realm of a host that the registry named is not answered."""
    async with faulty_registry() as storage:
        desk.elsewhere = f"http://localhost:{storage.port}"
        there = first("PATCH", lambda _request: refuse(503, "BUSY", "later"), desk)
        storage.script = there
        server.script = wants_login(desk)
        await push(make(credentials=Keys()), server)
        storage.script = first(
            "PATCH", lambda _request: refuse(401, "X", "who?", WWW_Authenticate='Basic realm="here, please"'), desk
        )
        with pytest.raises(RegistryError, match="401"):
            await push(make(credentials=Keys()), server, _CONTENT[::-1])
    assert stored(server) == _CONTENT
    assert {seen.method for seen in storage.seen} >= {"PATCH", "GET", "PUT"}
    assert not [seen for seen in storage.seen if "Authorization" in seen.headers]


@pytest.mark.parametrize("content", [_CONTENT, _CONTENT[:100]], ids=["chunks", "whole"])
async def test_a_redirect_of_an_upload_is_an_error_and_takes_nothing_along(
    make: Make, server: FaultyRegistry, desk: UploadDesk, content: bytes
) -> None:
    async with faulty_registry() as thief:
        target = f"http://localhost:{thief.port}/v2/ai/model/blobs/uploads/x"
        server.script = wants_login(desk)

        async def redirect(request: web.Request) -> web.StreamResponse | None:
            if request.method in {"PATCH", "PUT"}:
                return web.Response(status=307, headers={"Location": target})
            return await desk(request)

        server.script = wants_login(redirect)
        with pytest.raises(RegistryError, match="307"):
            await push(make(credentials=Keys()), server, content)
    assert thief.seen == []


@pytest.mark.parametrize(
    "location",
    [
        "",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://me:s3cret@127.0.0.1/x",
        "http://127.0.0.1:99999/x",
        "http://[::1/x",
        "http://127.0.0.1/a b",
        "javascript:alert(1)",
    ],
)
async def test_a_place_that_is_no_web_address_is_refused(make: Make, server: FaultyRegistry, location: str) -> None:
    async def nowhere(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=202, headers={"Location": location}) if request.method == "POST" else None

    server.script = nowhere
    with pytest.raises(RegistryError, match=r"no web address|where to go on|redirects"):
        await push(make(), server)
    assert server.paths("PATCH") == []


@pytest.mark.parametrize(
    "location", ["uploads/here", "/v2/ai/model/blobs/uploads/here", "?state=1", "//{host}/here?a=%2F&b"]
)
async def test_a_relative_place_is_found_and_its_query_kept(make: Make, server: FaultyRegistry, location: str) -> None:
    async def place(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": location.format(host=server.host)})
        return web.Response(status=201) if request.method == "PUT" else None

    server.script = place
    await push(make(), server, b"small")
    put = server.seen[-1]
    expected = {
        "uploads/here": "/v2/ai/model/blobs/uploads/uploads/here",
        "/v2/ai/model/blobs/uploads/here": "/v2/ai/model/blobs/uploads/here",
        "?state=1": "/v2/ai/model/blobs/uploads/",
        "//{host}/here?a=%2F&b": "/here",
    }
    digest = f"digest={Digest.of(b'small')}"
    assert put.path == expected[location]
    query = location.partition("?")[2]
    assert put.query == (f"{query}&{digest}" if query else digest)


# --- being let in -----------------------------------------------------------------------------------


@attrs.define
class TokenDesk:
    """A token server and its registry on one port. ``uses`` is how many requests a token is good for."""

    server: FaultyRegistry
    then: Script
    uses: int = 10**9
    realm: str = ""
    refused: str = ""
    password_only: bool = False
    asked: list[Seen] = attrs.field(factory=list)
    left: dict[str, int] = attrs.field(factory=dict)

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """A script for the registry; a scope that contains ``refused`` gets no token."""
        if request.path == "/token":
            return self.give(self.server.seen[-1])
        header = request.headers.get("Authorization", "")
        if self.left.get(header, 0) > 0:
            self.left[header] -= 1
            return await self.then(request)
        await request.read()
        scope = "repository:ai/model:pull,push"
        if source := request.query.get("from"):
            scope += f" repository:{source}:pull"
        realm = self.realm or f"http://{self.server.host}/token"
        return refuse(
            401, "UNAUTHORIZED", "token", WWW_Authenticate=f'Bearer realm="{realm}",service="s",scope="{scope}"'
        )

    def give(self, seen: Seen) -> web.Response:
        """A token, or a refusal."""
        self.asked.append(seen)
        if self.password_only and seen.method == "GET":
            return web.Response(status=405)
        if self.refused and self.refused in seen.query:
            return web.Response(status=403)
        token = f"t{len(self.asked)}"
        self.left[f"Bearer {token}"] = self.uses
        return web.json_response({"access_token": token, "expires_in": 300})


@pytest.mark.parametrize("uses", [1, 2, 3])
async def test_a_token_that_runs_out_in_mid_upload_is_renewed_and_the_upload_goes_on(
    make: Make, server: FaultyRegistry, desk: UploadDesk, uses: int
) -> None:
    tokens = server.script = TokenDesk(server, desk, uses=uses)
    await push(make(), server)
    assert stored(server) == _CONTENT
    assert desk.received == len(_CONTENT), "what the registry had taken is not sent again"
    assert len(server.paths("POST")) - (1 if uses else 0) == 1
    assert len(tokens.asked) >= 5 // uses


async def test_a_mount_asks_for_a_token_for_both_repositories(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    desk.mounts, server.blobs[str(Digest.of(_CONTENT))] = True, _CONTENT
    tokens = server.script = TokenDesk(server, desk)
    async with make().session(server.reference, push=True) as session:
        assert not await session.has_blob(blob_of(b"other"))
        assert await session.mount_blob(blob_of(_CONTENT), "ai/other")
    assert [parse_qs(seen.query)["scope"] for seen in tokens.asked] == [
        ["repository:ai/model:pull,push"],
        ["repository:ai/model:pull,push", "repository:ai/other:pull"],
    ]


async def test_a_token_server_that_refuses_the_other_repository_does_not_cost_the_push(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    tokens = server.script = TokenDesk(server, desk, refused="other", uses=3)
    async with make().session(server.reference, push=True) as session:
        assert not await session.has_blob(blob_of(_CONTENT))
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")
        await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
    assert stored(server) == _CONTENT
    assert len([seen for seen in tokens.asked if "other" in seen.query]) == 1


async def test_a_token_server_without_get_is_asked_as_oauth_2_wants(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    tokens = server.script = TokenDesk(server, desk, password_only=True)
    await push(make(credentials=Keys()), server)
    assert stored(server) == _CONTENT
    assert [seen.method for seen in tokens.asked] == ["GET", "POST"]
    assert parse_qs(tokens.asked[1].body.decode()) == {
        "grant_type": ["password"],
        "username": ["me"],
        "password": ["s3cret"],
        "service": ["s"],
        "client_id": ["dmr"],
        "scope": ["repository:ai/model:pull,push"],
    }


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1:{port}/token",
        "http://localhost:{port}/token",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/token",
        "http://[::1]:{port}/token",
        "http://[::ffff:127.0.0.1]:{port}/token",
        "http://2130706433:{port}/token",
        "http://0x7f000001:{port}/token",
        "http://127.1:{port}/token",
        "http://me:s3cret@auth.example/token",
        "ftp://auth.example/token",
        "file:///etc/passwd",
        "unix:///var/run/docker.sock",
        "http://auth.example/token\\r\\nX-Evil: 1",
        "",
    ],
)
async def test_a_registry_out_in_the_world_cannot_choose_any_token_server(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, realm: str
) -> None:
    """The world is reached through a proxy, which is the stand-in itself; whatever it is asked for is in ``seen``."""
    monkeypatch.setenv("http_proxy", f"http://{server.host}")

    async with faulty_registry() as inner:
        named = realm.format(port=inner.port)
        server.script = TokenDesk(server, server._serve, realm=named)
        registry = make(
            endpoints=EndpointPolicy(insecure=frozenset({"evil.example"})), credentials=Keys(), resolver=_outside
        )
        async with registry.session(Reference("evil.example", "ai/model"), push=True) as session:
            with pytest.raises((RegistryError, UnauthorizedError)) as raised:
                await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
    assert inner.seen == []
    assert not [seen for seen in server.seen if "Authorization" in seen.headers]
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/latest/x", "http://127.0.0.1:{port}/x", "http://[::1]:{port}/x"]
)
async def test_a_registry_out_in_the_world_cannot_have_a_blob_sent_inside(
    make: Make, server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    async with faulty_registry() as inner:

        async def send_inside(request: web.Request) -> web.StreamResponse | None:
            named = place.format(port=inner.port)
            return web.Response(status=202, headers={"Location": named}) if request.method == "POST" else None

        server.script = send_inside
        registry = make(endpoints=EndpointPolicy(insecure=frozenset({"evil.example"})), resolver=_outside)
        async with registry.session(Reference("evil.example", "ai/model"), push=True) as session:
            with pytest.raises(RegistryError, match="inside this network"):
                await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
            assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")
    assert inner.seen == []
    assert {seen.method for seen in server.seen} == {"POST"}


async def _outside(_host: str, _port: int) -> list[str]:
    return ["8.8.8.8"]


@pytest.mark.parametrize("where", ["realm", "place"])
async def test_a_name_that_means_another_address_once_it_was_judged_is_not_connected_to(
    make: Make, server: FaultyRegistry, desk: UploadDesk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """DNS rebinding: outside when it is looked up for the judgement, inside when it is for the connection."""
    looked_up: list[str] = []
    original = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(str(host))
        return original("127.0.0.1" if str(host).endswith(".example") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    name = f"evil.example:{server.port}"
    async with faulty_registry() as inner:
        away = f"http://rebound.example:{inner.port}"
        if where == "realm":
            server.script = TokenDesk(server, desk, realm=f"{away}/token")
        else:
            desk.elsewhere = away
        registry = make(
            endpoints=EndpointPolicy(insecure=frozenset({"evil.example"})), credentials=Keys(), resolver=_outside
        )
        async with registry.session(Reference(name, "ai/model"), push=True) as session:
            with pytest.raises(RegistryUnreachableError):
                await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
    assert "rebound.example" in looked_up
    assert server.seen, "the registry itself may be anywhere"
    assert inner.seen == []


# --- mounting ---------------------------------------------------------------------------------------


async def test_a_mount_sends_no_byte(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    desk.mounts, server.blobs[str(Digest.of(_CONTENT))] = True, _CONTENT
    async with make().session(server.reference, push=True) as session:
        assert await session.mount_blob(blob_of(_CONTENT), "ai/other")
    (seen,) = server.seen
    assert (seen.method, seen.query) == ("POST", f"mount={Digest.of(_CONTENT)}&from=ai/other")
    assert desk.received == 0


async def test_a_place_given_instead_of_a_mount_is_used(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    async with make().session(server.reference, push=True) as session:
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/third")
        await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
    assert stored(server) == _CONTENT
    assert len(server.paths("POST")) == 2
    assert desk.cancelled == ["u1"], "the place that the second one replaced is given back"
    assert not desk.places


async def test_a_place_that_nothing_was_sent_to_is_given_back(
    make: Make, server: FaultyRegistry, desk: UploadDesk
) -> None:
    async with make().session(server.reference, push=True) as session:
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")
    assert desk.cancelled == ["u1"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500])
async def test_a_mount_that_is_refused_is_no_failure(
    make: Make, server: FaultyRegistry, desk: UploadDesk, status: int
) -> None:
    async def refused(request: web.Request) -> web.StreamResponse | None:
        return refuse(status, "NO", "no") if "mount" in request.query else await desk(request)

    server.script = refused
    async with make().session(server.reference, push=True) as session:
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")
        await session.push_blob(blob_of(_CONTENT), source_of(_CONTENT), lambda _count: None)
    assert stored(server) == _CONTENT


async def test_a_mount_of_something_else_is_none(make: Make, server: FaultyRegistry) -> None:
    told = {"Docker-Content-Digest": str(Digest.of(b"other"))}

    async def other(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=201, headers=told)

    server.script = other
    async with make().session(server.reference, push=True) as session:
        assert not await session.mount_blob(blob_of(_CONTENT), "ai/other")


# --- the manifest -----------------------------------------------------------------------------------


async def test_a_manifest_that_the_tag_names_already_is_not_sent(make: Make, server: FaultyRegistry) -> None:
    artifact = server.model.artifact
    async with make().session(server.reference, push=True) as session:
        await session.push_manifest(artifact.manifest_bytes, artifact.manifest.media_type)
    assert [seen.method for seen in server.seen] == ["HEAD"]


@pytest.mark.parametrize("status", [400, 404, 405, 406])
async def test_a_registry_that_does_not_say_what_it_has_gets_the_manifest(
    make: Make, server: FaultyRegistry, status: int
) -> None:
    async def refused(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=status) if request.method == "HEAD" else None

    server.script = refused
    artifact = server.model.artifact
    async with make().session(server.reference, push=True) as session:
        await session.push_manifest(artifact.manifest_bytes, artifact.manifest.media_type)
    assert [seen.method for seen in server.seen] == ["HEAD", "PUT"]


async def test_cancelling_a_push_closes_its_connection(make: Make, server: FaultyRegistry, desk: UploadDesk) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH":
            begun.set()
            try:
                await server.released.wait()
            finally:
                left.set()
        return await desk(request)

    server.script = hold
    task = asyncio.create_task(push(make(timeouts=Timeouts()), server))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(left.wait(), 5)
    assert desk.cancelled == ["u1"], "gigabytes are not left lying at the registry"
