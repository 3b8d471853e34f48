"""What a push asks of a registry, in which order, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dmr_core.domain.artifact import Artifact, Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import (
    InvalidReferenceError,
    ModelNotFoundError,
    RegistryUnreachableError,
    ShuttingDownError,
    UnauthorizedError,
    UnsupportedFormatError,
)
from dmr_core.ports.registry import BlobSource, Credentials, RegistrySession
from dmr_core.services.catalog import CatalogService
from dmr_core.services.pushing import PushingService
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob, put_model
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.registry import InMemoryRegistry

_POLICY = ReferencePolicy()
_NAME = "registry.example/ai/model:v1"


class World:
    """A store, a registry and the service between them."""

    def __init__(self) -> None:
        self.store = InMemoryModelStore()
        self.registry = InMemoryRegistry()
        self.pushing = PushingService(
            store=self.store,
            registry=self.registry,
            catalog=CatalogService(self.store, _POLICY),
            clock=FakeClock(),
        )

    async def add(self, *names: str, layers: tuple[bytes, ...] = (b"GGUF" * 100, b"MIT")) -> Artifact:
        """A model under these names."""
        artifact = await put_model(self.store, *layers)
        for name in names:
            await self.store.tag(artifact.id, parse_reference(name, _POLICY))
        return artifact

    async def push(self, name: str = _NAME, credentials: Credentials | None = None) -> list[Progress]:
        """Every line of a push."""
        return [line async for line in self.pushing.push(name, credentials)]

    def asked(self, start: str) -> list[str]:
        """Requests that begin so, in order."""
        return [request for request in self.registry.requests if request.startswith(start)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Uploads wait until the second event; the first says that one does."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    session = InMemoryRegistry.session

    def patched(self: InMemoryRegistry, *args: object, **kwargs: object) -> object:
        return _Holding(session(self, *args, **kwargs), begun, go_on)  # type: ignore[arg-type]

    monkeypatch.setattr(InMemoryRegistry, "session", patched)
    return begun, go_on


class _Holding:
    """A session whose uploads wait."""

    def __init__(self, inner: object, begun: asyncio.Event, go_on: asyncio.Event) -> None:
        self._inner = inner
        self._begun = begun
        self._go_on = go_on

    async def __aenter__(self) -> object:
        session: RegistrySession = await self._inner.__aenter__()  # type: ignore[attr-defined]
        push_blob = session.push_blob

        async def push(descriptor: Descriptor, source: BlobSource, sent: Callable[[int], None]) -> None:
            self._begun.set()
            await self._go_on.wait()
            await push_blob(descriptor, source, sent)

        return _Delegate(session, push)

    async def __aexit__(self, *exc: object) -> object:
        return await self._inner.__aexit__(*exc)  # type: ignore[attr-defined]


class _Delegate:
    def __init__(self, session: RegistrySession, push_blob: object) -> None:
        self._session = session
        self.push_blob = push_blob

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)


async def test_layers_go_before_the_config_and_the_manifest_last(world: World) -> None:
    artifact = await world.add(_NAME)
    lines = await world.push()
    pushes = world.asked("push")
    assert pushes[-2:] == [f"push {artifact.manifest.config.digest}", "push ai/model:v1"]
    assert sorted(pushes[:-2]) == sorted(f"push {layer.digest}" for layer in artifact.manifest.layers)
    assert lines[-1] == Progress(kind=ProgressKind.SUCCESS, message="Model pushed successfully", mode=TransferMode.PUSH)
    assert world.registry.manifest_bytes(parse_reference(_NAME, _POLICY)) == artifact.manifest_bytes


async def test_everything_is_asked_for_before_anything_is_sent(world: World) -> None:
    await world.add(_NAME)
    await world.push()
    kinds = [request.partition(" ")[0] for request in world.registry.requests]
    assert kinds == ["has"] * 3 + ["push"] * 4


async def test_what_is_there_is_told_at_once_and_not_sent(world: World) -> None:
    artifact = await world.add(_NAME)
    await world.push()
    world.registry.requests.clear()
    lines = await world.push()
    assert world.asked("push sha256") == []
    assert [(line.layer.id, line.layer.current) for line in lines[:-1] if line.layer] == [
        (blob.digest, blob.size) for blob in artifact.manifest.blobs
    ]
    assert all(line.message.startswith("Already exists") for line in lines[:-1])


async def test_a_layer_that_comes_twice_is_sent_once(world: World) -> None:
    licence = b"MIT"
    await put_blob(world.store, licence)
    artifact = build_artifact([layer_of(licence), layer_of(licence)])
    await world.store.add(artifact)
    await world.store.tag(artifact.id, parse_reference(_NAME, _POLICY))
    lines = await world.push()
    assert len(world.asked(f"push {Digest.of(licence)}")) == 1
    assert {line.total for line in lines if line.layer} == {len(licence) + artifact.manifest.config.size}


async def test_blobs_are_mounted_from_names_of_the_same_registry_only(world: World) -> None:
    weights = b"weights" * 1000
    other = await world.add("elsewhere.example/ai/base:v1", "registry.example/ai/base:v1", layers=(weights,))
    world.registry.seed(parse_reference("registry.example/ai/base:v1", _POLICY), other, [weights])
    await world.add(_NAME, layers=(weights, b"a licence"))
    await world.push()
    assert world.asked("mount") == [f"mount {Digest.of(weights)} from ai/base"]
    assert world.asked(f"push {Digest.of(weights)}") == []
    assert len(world.asked("push sha256")) == 2


async def test_a_name_of_the_repository_itself_is_no_source(world: World) -> None:
    await world.add(_NAME, "registry.example/ai/model:v2")
    await world.push()
    assert world.asked("mount") == []


async def test_few_mounts_are_tried_before_the_blob_is_sent(world: World) -> None:
    world.registry.mounts = False
    await world.add(_NAME, *(f"registry.example/ai/other{number}:v1" for number in range(9)), layers=(b"weights",))
    await world.push()
    assert len(world.asked(f"mount {Digest.of(b'weights')}")) == 3
    assert len(world.asked("push sha256")) == 2


async def test_a_push_keeps_its_blobs_from_garbage_collection(
    world: World, held: tuple[asyncio.Event, asyncio.Event]
) -> None:
    artifact = await world.add(_NAME)
    begun, go_on = held
    push = asyncio.create_task(world.push())
    await begun.wait()
    assert set(world.store.leased) >= {artifact.id, *(blob.digest for blob in artifact.manifest.blobs)}
    go_on.set()
    await push
    assert world.store.leased == []


async def test_the_same_push_twice_is_one_upload(world: World, held: tuple[asyncio.Event, asyncio.Event]) -> None:
    await world.add(_NAME)
    begun, go_on = held
    pushes = [asyncio.create_task(world.push()) for _ in range(3)]
    await begun.wait()
    go_on.set()
    for lines in await asyncio.gather(*pushes):
        assert lines[-1].kind is ProgressKind.SUCCESS
    assert len(world.asked("push")) == 4


async def test_one_of_two_listeners_may_leave(world: World, held: tuple[asyncio.Event, asyncio.Event]) -> None:
    await world.add(_NAME)
    begun, go_on = held
    leaving, staying = (asyncio.create_task(world.push()) for _ in range(2))
    await begun.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    go_on.set()
    assert (await staying)[-1].kind is ProgressKind.SUCCESS


async def test_the_last_listener_leaving_ends_the_push(world: World, held: tuple[asyncio.Event, asyncio.Event]) -> None:
    await world.add(_NAME)
    begun, _ = held
    push = asyncio.create_task(world.push())
    await begun.wait()
    push.cancel()
    await asyncio.gather(push, return_exceptions=True)
    for _ in range(10):  # turns of the loop, for what was cancelled to end
        await asyncio.sleep(0)
    assert world.asked("push") == []
    assert world.store.leased == []


async def test_a_push_that_the_end_of_the_service_cuts_short_says_so(
    world: World, held: tuple[asyncio.Event, asyncio.Event]
) -> None:
    await world.add(_NAME)
    begun, _ = held
    push = asyncio.create_task(world.push())
    await begun.wait()
    await world.pushing.aclose()
    with pytest.raises(ShuttingDownError, match="push"):
        await push
    with pytest.raises(ShuttingDownError):
        await world.push()


async def test_an_error_reaches_everybody_who_waits(world: World) -> None:
    await world.add(_NAME)
    world.registry.reachable = False
    for outcome in await asyncio.gather(world.push(), world.push(), return_exceptions=True):
        assert isinstance(outcome, RegistryUnreachableError)


async def test_other_credentials_are_another_push(world: World) -> None:
    await world.add(_NAME)
    world.registry.protect("registry.example/ai/model", "right")
    right, wrong = await asyncio.gather(
        world.push(credentials=Credentials("right")),
        world.push(credentials=Credentials("wrong")),
        return_exceptions=True,
    )
    assert isinstance(wrong, UnauthorizedError)
    assert isinstance(right, list)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("0123456789ab", InvalidReferenceError),
        ("sha256:" + "0" * 64, InvalidReferenceError),
        ("UPPER//x", InvalidReferenceError),
        ("registry.example/ai/unknown", ModelNotFoundError),
    ],
)
async def test_a_name_that_cannot_be_pushed_is_told_before_anything_is_asked(
    world: World, name: str, error: type[Exception]
) -> None:
    await world.add(_NAME)
    with pytest.raises(error):
        await world.push(name)
    assert world.registry.requests == []


async def test_hugging_face_takes_no_artifacts(world: World) -> None:
    await world.add("hf.co/org/model:latest")
    with pytest.raises(UnsupportedFormatError, match="Hugging Face"):
        await world.push("hf.co/org/model:latest")
