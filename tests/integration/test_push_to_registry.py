"""Pushing to CNCF distribution as Debian ships it; what it was asked is read from its own access log."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_adapters.clock import SystemClock
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.blob_upload import UploadPolicy
from dmr_adapters.registry.credentials import CredentialStore
from dmr_adapters.registry.oci import OciRegistry
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import BrokenConnectionError
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import Progress, ProgressKind
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import UnauthorizedError
from dmr_core.services.catalog import CatalogService
from dmr_core.services.pushing import PushingService
from dmr_core.testing.contracts.model_store import put_model
from tests.stand_ins.oci_registry import OciRegistryProcess, docker_registry

pytestmark = pytest.mark.registry

_POLICY = ReferencePolicy()
_REQUEST = re.compile(r'"([A-Z]+) (/v2/\S*) HTTP/1\.1" (\d{3})')
_MIB = 1024 * 1024


@attrs.frozen
class Served:
    """A request as the registry logged it."""

    method: str
    path: str
    status: int


@attrs.define
class World:
    """A registry with its log, and a store that pushes to it."""

    server: OciRegistryProcess
    log: Path
    store: FilesystemModelStore
    registry: OciRegistry
    pushing: PushingService
    read: int = 0

    def requests(self) -> list[Served]:
        """What the registry answered since the last call."""
        text = self.log.read_text()
        found = [Served(m[1], m[2], int(m[3])) for m in _REQUEST.finditer(text, self.read)]
        self.read = len(text)
        return [request for request in found if request.path != "/v2/"]

    def counts(self) -> dict[str, int]:
        """The same, counted by method and kind."""
        return dict(
            Counter(
                f"{seen.method} {'manifest' if '/manifests/' in seen.path else 'upload' if '/uploads/' in seen.path else 'blob'}"
                for seen in self.requests()
            )
        )

    def name(self, repository: str) -> str:
        """A name at this registry."""
        return f"{self.server.host}/{repository}"

    async def tag(self, artifact: Artifact, name: str) -> None:
        """Give a model of the store a name."""
        await self.store.tag(artifact.id, parse_reference(name, _POLICY))

    async def push(self, name: str) -> list[Progress]:
        """All the lines of a push."""
        return [line async for line in self.pushing.push(name)]

    async def pulled(self, name: str, artifact: Artifact) -> list[bytes]:
        """What the registry has under a name; its manifest must be ours to the byte."""
        async with self.registry.session(parse_reference(name, _POLICY)) as session:
            assert (await session.manifest()).content == artifact.manifest_bytes
            found = []
            for layer in artifact.manifest.layers:
                async with session.read_blob(layer) as reader:
                    found.append(b"".join([chunk async for chunk in reader.chunks]))
            return found


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[OciRegistryProcess]:
    with docker_registry(directory) as running:
        yield running


@asynccontextmanager
async def opened(
    server: OciRegistryProcess, directory: Path, root: Path, credentials: CredentialStore | None = None
) -> AsyncIterator[World]:
    """A world around a running registry."""
    store = await FilesystemModelStore.open(root / "models")
    registry = OciRegistry(
        clock=SystemClock(),
        decode_manifest=decode_manifest,
        decode_config=decode_config,
        credentials=credentials,
        uploads=UploadPolicy(chunk=_MIB),
    )
    pushing = PushingService(
        store=store, registry=registry, catalog=CatalogService(store, _POLICY), clock=SystemClock()
    )
    world = World(server, directory / "log", store, registry, pushing)
    world.requests()
    yield world
    await pushing.aclose()
    await registry.aclose()


@pytest.fixture
async def world(server: OciRegistryProcess, directory: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(server, directory, tmp_path) as made:
        yield made


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_a_push_sends_large_layers_in_chunks_and_a_pull_gives_them_back(world: World) -> None:
    layers = [content(1, 3 * _MIB + 17), content(2, 1000)]
    artifact, name = await put_model(world.store, *layers), world.name("push/chunks:v1")
    await world.tag(artifact, name)
    lines = await world.push(name)
    assert world.counts() == {
        "HEAD blob": 3,
        "POST upload": 3,
        "PATCH upload": 4,
        "PUT upload": 3,
        "HEAD manifest": 1,
        "PUT manifest": 1,
    }
    assert await world.pulled(name, artifact) == layers
    assert lines[-1].kind is ProgressKind.SUCCESS
    final = {line.layer.id: line.layer.current for line in lines if line.layer}
    assert final == {blob.digest: blob.size for blob in artifact.manifest.blobs}
    assert {line.total for line in lines if line.layer} == {sum(blob.size for blob in artifact.manifest.blobs)}


async def test_a_push_again_only_asks(world: World) -> None:
    artifact, name = await put_model(world.store, content(3, 2000)), world.name("push/again:v1")
    await world.tag(artifact, name)
    await world.push(name)
    world.requests()
    lines = await world.push(name)
    assert world.counts() == {"HEAD blob": 2, "HEAD manifest": 1}
    assert [line.message for line in lines[:2]] == ["Already exists: 0.00 MB"] * 2
    assert all(line.layer and line.layer.current == line.layer.size for line in lines[:2])
    assert lines[-1].kind is ProgressKind.SUCCESS


async def test_a_blob_of_another_repository_is_mounted_and_not_sent(world: World) -> None:
    weights = content(4, 2 * _MIB)
    first = await put_model(world.store, weights)
    second = await put_model(world.store, weights, b"a licence")
    await world.tag(first, world.name("push/original:v1"))
    await world.push(world.name("push/original:v1"))
    await world.tag(second, world.name("push/variant:v1"))
    world.requests()
    await world.push(world.name("push/variant:v1"))
    asked = world.requests()
    mounts = [seen for seen in asked if "mount=" in seen.path]
    assert [(seen.method, seen.status) for seen in mounts] == [("POST", 201)]
    assert f"mount=sha256%3A{Digest.of(weights).hex}" in mounts[0].path.replace("sha256:", "sha256%3A")
    assert not [seen for seen in asked if seen.method == "PATCH"]
    sent = [seen.path for seen in asked if seen.method == "PUT" and "/uploads/" in seen.path]
    assert len(sent) == 2, "the licence and the config"
    assert not [path for path in sent if Digest.of(weights).hex in path]
    assert await world.pulled(world.name("push/variant:v1"), second) == [weights, b"a licence"]


async def test_a_model_under_a_second_name_is_mounted_whole(world: World) -> None:
    artifact = await put_model(world.store, content(5, _MIB))
    names = [world.name("push/here:v1"), world.name("push/there:v1")]
    for name in names:
        await world.tag(artifact, name)
    await world.push(names[0])
    world.requests()
    await world.push(names[1])
    assert world.counts() == {"HEAD blob": 2, "POST upload": 2, "HEAD manifest": 1, "PUT manifest": 1}
    assert await world.pulled(names[1], artifact) == [content(5, _MIB)]


async def test_a_mount_that_the_registry_cannot_do_costs_no_second_place(world: World) -> None:
    """The other name was never pushed, so the registry answers with a place for an upload, which is then used."""
    artifact = await put_model(world.store, content(6, 3000))
    for name in ("push/never:v1", "push/now:v1"):
        await world.tag(artifact, world.name(name))
    await world.push(world.name("push/now:v1"))
    assert world.counts() == {
        "HEAD blob": 2,
        "POST upload": 2,
        "PUT upload": 2,
        "HEAD manifest": 1,
        "PUT manifest": 1,
    }


async def test_an_upload_goes_on_where_it_broke(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = content(7, 4 * _MIB)
    artifact, name = await put_model(world.store, weights), world.name("push/broken:v1")
    await world.tag(artifact, name)
    broken = False
    original = Repository.ask

    def breaking(self: Repository, method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal broken
        if method == "PATCH" and kwargs["headers"]["Content-Range"].startswith(f"{2 * _MIB}-") and not broken:
            broken = True
            raise BrokenConnectionError("cut by the test")
        return original(self, method, *args, **kwargs)

    monkeypatch.setattr(Repository, "ask", breaking)
    await world.push(name)
    counts = world.counts()
    assert broken
    assert (counts["PATCH upload"], counts["GET upload"]) == (4, 1)
    assert await world.pulled(name, artifact) == [weights]


async def test_a_moved_tag_is_put_again(world: World) -> None:
    name = world.name("push/moved:v1")
    for seed in (8, 9):
        artifact = await put_model(world.store, content(seed, 500))
        await world.tag(artifact, name)
        await world.push(name)
        assert world.counts()["PUT manifest"] == 1
        assert await world.pulled(name, artifact) == [content(seed, 500)]
        world.requests()


async def test_behind_a_password_every_request_carries_it_after_the_first(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    directory = tmp_path_factory.mktemp("closed")
    with docker_registry(directory, login=("me", "secret")) as closed:
        auth = b64encode(b"me:secret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {closed.host: {"auth": auth}}}))
        async with opened(closed, directory, tmp_path, CredentialStore(directory=tmp_path)) as world:
            weights = content(10, 2 * _MIB + 1)
            artifact, name = await put_model(world.store, weights), world.name("push/closed:v1")
            await world.tag(artifact, name)
            await world.push(name)
            refused = [seen.method for seen in world.requests() if seen.status == 401]
            assert set(refused) <= {"HEAD"}, "no byte of a blob is sent without the login"
            assert await world.pulled(name, artifact) == [weights]
        async with opened(closed, directory, tmp_path) as world:
            with pytest.raises(UnauthorizedError, match="docker login"):
                await world.push(name)
