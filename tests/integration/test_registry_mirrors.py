"""Docker Hub through mirrors: who is asked, in which order, with which credentials, and what happens when one fails."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from aiohttp import web
from yarl import URL

from dmr_adapters.clock import SystemClock
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.credentials import CredentialStore, Login, Secret
from dmr_adapters.registry.endpoint import Endpoint, EndpointPolicy
from dmr_adapters.registry.mirrored import parse_mirrors
from dmr_adapters.registry.oci import OciRegistry
from dmr_adapters.registry.retry import RetryPolicy
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import DigestMismatchError, DmrError, RemoteModelNotFoundError, UnauthorizedError
from dmr_core.ports.registry import Credentials
from dmr_core.services.pulling import PullingService
from dmr_core.testing.contracts.registry import Sample, sample

_MODEL = sample(bytes(range(256)) * 8192)
_NAME = "docker.io/ai/model:latest"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.define(eq=False)
class _Host:
    """A registry, or what is called one. ``asked`` are the requests; ``fault`` answers instead of it."""

    model: Sample = _MODEL
    prefix: str = ""
    port: int = 0
    fault: Answer | None = None
    asked: list[web.Request] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.asked]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.fault is not None:
            return await self.fault(request)
        artifact, path = self.model.artifact, request.path.removeprefix(f"{self.prefix}/v2/ai/model/")
        if path == "manifests/latest":
            return web.Response(body=artifact.manifest_bytes, content_type=artifact.manifest.media_type)
        contents = {
            f"blobs/{artifact.manifest.config.digest}": artifact.config_bytes,
            f"blobs/{artifact.manifest.layers[0].digest}": self.model.layer,
        }
        return web.Response(body=contents[path]) if path in contents else web.Response(status=404)


@attrs.frozen
class _HubAt(EndpointPolicy):
    """Docker Hub, at a port of this machine."""

    port: int = 0

    def endpoint(self, registry: str) -> Endpoint:
        return Endpoint(registry, URL(f"http://127.0.0.1:{self.port}"))


@attrs.frozen
class _World:
    mirrors: tuple[_Host, ...]
    hub: _Host
    store: FilesystemModelStore
    pulling: PullingService
    registry: OciRegistry

    async def pull(self, credentials: Credentials | None = None) -> None:
        async for _ in await self.pulling.pull(_NAME, credentials):
            pass

    @property
    def is_here(self) -> bool:
        return self.store.by_id(_MODEL.artifact.id) is not None


@asynccontextmanager
async def _serving(host: _Host) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", host.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


class _Logins(CredentialStore):
    async def find(self, registry: str) -> Secret | None:
        return Login("user", f"of-{registry}")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[_World]:
    first, second, hub = _Host(prefix="/artifactory/docker"), _Host(), _Host()
    async with _serving(first), _serving(second), _serving(hub):
        registry = OciRegistry(
            clock=SystemClock(),
            decode_manifest=decode_manifest,
            decode_config=decode_config,
            endpoints=_HubAt(port=hub.port),
            credentials=_Logins(),
            retry=RetryPolicy(attempts=1, refused_attempts=1),
            mirrors=parse_mirrors([f"{first.url}/v2/", second.url]),
        )
        store = await FilesystemModelStore.open(tmp_path / "models")
        pulling = PullingService(store=store, registry=registry, policy=ReferencePolicy(), clock=SystemClock())
        yield _World((first, second), hub, store, pulling, registry)
        await registry.aclose()


def _status(status: int) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    return answer


async def test_the_first_mirror_that_has_it_is_all_that_is_asked(world: _World) -> None:
    await world.pull()
    first, second = world.mirrors
    assert world.is_here
    assert first.paths[0] == "/artifactory/docker/v2/ai/model/manifests/latest"
    assert len(first.asked) == 3
    assert {request.query["ns"] for request in first.asked} == {"docker.io"}
    assert second.asked == world.hub.asked == []


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_a_mirror_that_refuses_is_passed_over(world: _World, status: int) -> None:
    world.mirrors[0].fault = _status(status)
    await world.pull()
    assert world.is_here
    assert len(world.mirrors[1].asked) == 3
    assert world.hub.asked == []


async def test_the_hub_is_asked_last_and_told_no_namespace(world: _World) -> None:
    for mirror in world.mirrors:
        mirror.fault = _status(404)
    await world.pull()
    assert world.is_here
    assert not any(request.query_string for request in world.hub.asked)


async def test_a_model_that_nobody_has_is_not_found(world: _World) -> None:
    world.mirrors[0].fault, world.mirrors[1].fault, world.hub.fault = _status(500), _status(404), _status(404)
    with pytest.raises(RemoteModelNotFoundError):
        await world.pull()


async def test_a_mirror_that_breaks_off_is_followed_by_the_next_which_sends_the_rest(world: _World) -> None:
    first, second = world.mirrors
    layer = str(_MODEL.artifact.manifest.layers[0].digest)

    async def cut(request: web.Request) -> web.StreamResponse:
        first.fault = None
        if not request.path.endswith(layer):
            answer = await first.handle(request)
            first.fault = cut
            return answer
        answer = web.StreamResponse(headers={"Content-Length": str(len(_MODEL.layer))})
        await answer.prepare(request)
        await answer.write(_MODEL.layer[: len(_MODEL.layer) - 1000])
        assert request.transport is not None
        request.transport.close()
        return answer

    ranges: list[str] = []

    async def rest(request: web.Request) -> web.StreamResponse:
        ranges.append(request.headers.get("Range", ""))
        start = int(ranges[-1].removeprefix("bytes=").rstrip("-"))
        total = len(_MODEL.layer)
        headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        return web.Response(status=206, body=_MODEL.layer[start:], headers=headers)

    first.fault, second.fault = cut, rest
    await world.pull()
    assert world.is_here
    assert len(ranges) == 1
    assert ranges[0] != "bytes=0-"


async def test_a_mirror_that_sends_other_bytes_is_not_believed(world: _World) -> None:
    first, _ = world.mirrors
    first.model = attrs.evolve(_MODEL, layer=bytes(len(_MODEL.layer)))
    await world.pull()
    assert world.is_here
    assert len(world.mirrors[1].asked) == 1


async def test_when_everybody_lies_it_is_said(world: _World) -> None:
    for host in (*world.mirrors, world.hub):
        host.model = attrs.evolve(_MODEL, layer=bytes(len(_MODEL.layer)))
    with pytest.raises(DigestMismatchError):
        await world.pull()
    assert not world.is_here


async def test_a_login_goes_to_the_host_it_is_for(world: _World) -> None:
    async def locked(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    for host in (*world.mirrors, world.hub):
        host.fault = locked
    with pytest.raises(UnauthorizedError):
        await world.pull()
    for host, name in ((world.mirrors[0], None), (world.mirrors[1], None), (world.hub, "docker.io")):
        expected = base64.b64encode(f"user:of-{name or f'127.0.0.1:{host.port}'}".encode()).decode()
        sent = {request.headers.get("Authorization") for request in host.asked}
        assert sent == {None, f"Basic {expected}"}


async def test_the_token_of_a_request_is_for_the_hub_alone(world: _World) -> None:
    for mirror in world.mirrors:
        mirror.fault = _status(401)

    async def locked(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    world.hub.fault = locked
    with pytest.raises(DmrError):
        await world.pull(Credentials("the-token"))
    assert not any("the-token" in str(request.headers) for mirror in world.mirrors for request in mirror.asked)
    assert any("the-token" in str(request.headers) for request in world.hub.asked)


async def test_other_registries_and_pushes_have_no_mirrors(world: _World) -> None:
    reference = ReferencePolicy()
    async with world.registry.session(parse_reference("ghcr.io/ai/model", reference)) as session:
        await session.manifest()
    async with world.registry.session(parse_reference(_NAME, reference), push=True) as session:
        assert await session.has_blob(_MODEL.artifact.manifest.layers[0])
    assert world.mirrors[0].asked == world.mirrors[1].asked == []


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("https://m.example.com/artifactory/docker/", "https://m.example.com/artifactory/docker/v2"),
        ("https://m.example.com/v2/", "https://m.example.com/v2"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/v2"),
        ("http://m.internal/proxy", "http://m.internal/proxy/v2"),
    ],
)
def test_addresses_of_mirrors(text: str, base: str) -> None:
    (endpoint,) = parse_mirrors([text])
    assert str(endpoint.path("ai/m", "manifests", "1")) == f"{base}/ai/m/manifests/1?ns=docker.io"


def test_what_is_no_address_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_mirrors(["ftp://m", "https://user:secret@m.example", "https://", "https://m?x=1", " "]) == ()
    assert len(caplog.records) == 4
    assert "secret" not in caplog.text
