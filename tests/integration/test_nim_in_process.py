"""NIMs through the whole service, on a Docker Engine that is no more than its API."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_nim.plugin import dmr_backends
from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.settings import Settings
from dmr_core.ports.backend import BackendSpec
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from tests.asgi_client import Answer, call
from tests.stand_ins.fake_docker import FakeDocker, FakeImage, fake_docker
from tests.stand_ins.nim_hub import KEY, VARIANTS

PREFIX = "nvcr.io/nim/"
MODEL = PREFIX + "stand-in/model:1.0"
JSON = ("accept", "application/json")


@attrs.frozen
class World:
    service: Service
    docker: FakeDocker

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def pull(self, name: str = MODEL, *headers: tuple[str, str]) -> list[dict[str, Any]]:
        answer = await self.call("POST", "/models/create", {"from": name}, headers=[JSON, *headers])
        return [json.loads(line) for line in answer.text.splitlines()] if answer.status == 200 else [answer.json()]

    async def chat(self, name: str = MODEL, *headers: tuple[str, str], **body: Any) -> Answer:
        asked = {"model": name, "messages": [{"role": "user", "content": "Hi"}], **body}
        return await self.call("POST", "/v1/chat/completions", asked, headers=headers)

    async def ps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.call("GET", "/engines/ps")).json()
        return found


@pytest.fixture
async def docker(tmp_path: Path) -> AsyncIterator[FakeDocker]:
    async with fake_docker(tmp_path) as fake:
        fake.registry = {PREFIX + name: FakeImage(environment) for name, environment in VARIANTS.items()}
        yield fake


@pytest.fixture
async def world(docker: FakeDocker, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(docker, tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(docker: FakeDocker, root: Path, **environment: str) -> AsyncIterator[World]:
    (spec,) = dmr_backends()
    variables = {"HOME": str(root), "DOCKER_HOST": f"unix://{docker.socket}", **environment}
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=InMemoryRegistry(),
        processes=FakeProcessSupervisor(),
        entry_points=(),
        backends=(spec,),
    )
    settings = Settings(
        models_path=root / "models", environment=variables, docker_config=root / ".docker", health_interval=0
    )
    async with open_service(settings, overrides) as service:
        yield World(service, docker)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_nim_is_a_model_in_every_list(world: World) -> None:
    lines = await world.pull()

    assert lines[-1]["type"] == "success"
    assert {line["type"] for line in lines} == {"progress", "warning", "success"}
    (model,) = (await world.call("GET", "/models")).json()
    assert (model["tags"], model["config"]["format"]) == ([MODEL], "nim")
    assert (await world.call("GET", f"/models/{MODEL}")).json() == model
    assert (await world.call("GET", f"/models/{model['id']}")).json() == model
    assert [one["id"] for one in (await world.call("GET", "/v1/models")).json()["data"]] == [MODEL]
    assert (await world.call("GET", "/engines/df")).json()["models_disk_usage"] == 120_000_000


async def test_requests_get_the_name_the_container_knows_and_answers_the_one_that_was_asked_for(world: World) -> None:
    await world.pull()

    answer = await world.chat(odd=[1.0, {"a": "\u00e9"}], model_extra="model")

    assert answer.status == 200, answer.text
    assert answer.json()["model"] == MODEL
    asked = json.loads(world.docker.asked[-1])
    assert asked["model"] == "stand-in/model"
    assert {name: asked[name] for name in ("odd", "model_extra")} == {
        "odd": [1.0, {"a": "\u00e9"}],
        "model_extra": "model",
    }
    assert b"[1.0,{" in world.docker.asked[-1].replace(b" ", b"")  # other members are the bytes that were sent
    assert answer.headers["x-dmr-backend"] == "nim; reason=claimed"
    (running,) = await world.ps()
    assert (running["backend_name"], running["model_name"]) == ("nim", MODEL)
    assert running["endpoint"] == f"127.0.0.1:{next(iter(world.docker.containers.values())).port}"


async def test_removal_unloads_and_takes_container_and_image(world: World) -> None:
    await world.pull()
    await world.chat()

    removed = await world.call("DELETE", f"/models/{MODEL}")

    assert [next(iter(line)) for line in removed.json()] == ["Untagged", "Deleted"]
    assert (world.docker.containers, world.docker.images, await world.ps()) == ({}, {}, [])
    assert (await world.chat()).status == 404


async def test_the_key_of_a_request_reaches_the_container_and_nobody_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    locked = PREFIX + "stand-in/locked:latest"
    with caplog.at_level(logging.DEBUG):
        await world.pull(locked, ("x-engine-key", KEY))
        answer = await world.chat(locked, ("x-engine-key", KEY))

        assert answer.status == 200, answer.text
        (container,) = world.docker.containers.values()
        assert container.spec["Env"] == [f"NGC_API_KEY={KEY}"]
        await world.call("POST", "/engines/unload", {"all": True})
        assert (await world.chat(locked)).status == 200  # it is remembered for the next start
        assert container.starts == 2
        shown = [
            (await world.call("GET", path)).text
            for path in (
                "/engines/ps",
                "/models",
                f"/dmr/v1/explain?model={locked}",
                "/dmr/v1/requests",
                "/dmr/v1/plugins",
            )
        ]
    assert KEY not in "".join(shown) + caplog.text
    assert "using key ***" in caplog.text


async def test_a_key_is_a_login_for_ngc_and_for_no_other_registry(docker: FakeDocker, tmp_path: Path) -> None:
    async with opened(docker, tmp_path) as world:
        await world.pull(MODEL, ("x-engine-key", KEY))
    other = "registry.test/nim/"
    docker.registry = {other + "stand-in/model:1.0": FakeImage()}
    async with opened(docker, tmp_path, DMR_NIM_PREFIX=other, NGC_API_KEY=KEY) as world:
        await world.pull(other + "stand-in/model:1.0", ("x-engine-key", KEY))

    assert docker.auths == [{"username": "$oauthtoken", "password": KEY, "serveraddress": "nvcr.io"}, {}]


def auth(**fields: str) -> tuple[str, str]:
    return "x-registry-auth", base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


async def test_a_login_goes_to_the_registry_it_is_for_and_comes_before_a_key(
    docker: FakeDocker, tmp_path: Path
) -> None:
    (tmp_path / ".docker").mkdir()
    own = base64.b64encode(b"own:secret").decode()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"nvcr.io": {"auth": own}}}))
    mine = {"serveraddress": "nvcr.io", "username": "me", "password": "pw"}
    token = {"serveraddress": "nvcr.io", "identitytoken": "a-token"}
    async with opened(docker, tmp_path, NGC_API_KEY="service-key") as world:
        await world.pull(MODEL, auth(**mine), ("x-engine-key", KEY))
        await world.pull(MODEL, auth(**token))
        await world.pull(MODEL, auth(**{**mine, "serveraddress": "evil.example"}))
        await world.pull(MODEL)
        (tmp_path / ".docker" / "config.json").unlink()
        await world.pull(MODEL)

    assert docker.auths == [
        mine,
        token,
        {"serveraddress": "nvcr.io", "username": "own", "password": "secret"},
        {"serveraddress": "nvcr.io", "username": "own", "password": "secret"},
        {"serveraddress": "nvcr.io", "username": "$oauthtoken", "password": "service-key"},
    ]


@pytest.mark.parametrize(
    "header",
    [
        ("x-engine-key", "two words"),
        ("x-engine-key", "k" * 5000),
        ("x-registry-auth", "%%%"),
        ("x-registry-auth", base64.urlsafe_b64encode(b"[]").decode()),
        auth(username="me", password="pw"),
        auth(serveraddress="nvcr.io"),
    ],
)
async def test_a_header_that_is_none_is_refused_and_not_repeated(world: World, header: tuple[str, str]) -> None:
    answer = await world.call("POST", "/models/create", {"from": MODEL}, headers=[header])

    assert answer.status == 400
    assert header[0] in answer.text.lower()
    assert header[1] not in answer.text
    if header[0] == "x-engine-key":
        await world.pull()
        chat = await world.chat(MODEL, header)
        assert (chat.status, header[1] in chat.text) == (400, False)


async def test_a_pull_that_is_left_is_cancelled_in_the_engine(world: World) -> None:
    world.docker.pulls_wait = asyncio.Event()
    headers = [JSON]

    await world.call("POST", "/models/create", {"from": MODEL}, headers=headers, leave_after=1)
    await until(lambda: world.docker.cancelled_pulls == 1)

    assert world.docker.images == {}


async def test_an_engine_that_stops_in_the_middle_of_a_pull_is_told_and_the_next_pull_works(world: World) -> None:
    world.docker.pulls_wait = asyncio.Event()
    pulling = asyncio.ensure_future(world.pull())
    await until(lambda: world.docker.held_pulls == 1)
    await world.docker.stop()

    last = (await pulling)[-1]
    assert last["type"] == "error"
    assert "went away while it pulled" in last["message"]
    await world.docker.start()
    world.docker.pulls_wait = None
    assert (await world.pull())[-1]["type"] == "success"


async def test_a_wrong_key_is_told_and_the_right_one_is_tried_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr_core.services.scheduling.setbacks._LONGEST", 0.0)  # not to wait between failures
    locked = PREFIX + "stand-in/locked:latest"
    await world.pull(locked)
    for _ in range(6):
        refused = await world.chat(locked, ("x-engine-key", "wrong-key-of-mine"))
        assert refused.status in (412, 503)
        assert "wrong-key-of-mine" not in refused.text
    assert refused.status == 503  # it has been given up
    assert "NGC" in refused.text

    assert (await world.chat(locked, ("x-engine-key", KEY))).status == 200


async def test_a_service_that_ends_leaves_its_container_and_the_next_takes_it_back(
    docker: FakeDocker, tmp_path: Path
) -> None:
    async with opened(docker, tmp_path) as world:
        await world.pull()
        await world.chat()
    (container,) = docker.containers.values()
    assert docker.running == 1

    async with opened(docker, tmp_path) as world:
        async with asyncio.timeout(10):
            while not [one for one in await world.ps() if not one.get("loading")]:
                await asyncio.sleep(0.01)
        assert (await world.chat()).status == 200
        assert container.starts == 1
        await world.call("POST", "/engines/unload", {"models": [MODEL]})
        assert docker.running == 0

    async with opened(docker, tmp_path, DMR_NIM_ON_EXIT="stop") as world:
        assert (await world.chat()).status == 200
        assert container.starts == 2
    assert docker.running == 0


async def test_gpus_are_asked_for_where_one_was_found(docker: FakeDocker, tmp_path: Path) -> None:
    docker.runtimes = ("nvidia", "runc")
    (spec,) = dmr_backends()
    factory, source = spec.factory, spec.model_source
    assert source is not None
    spec = attrs.evolve(
        spec,
        factory=lambda context: factory(attrs.evolve(context, variant="cuda")),
        model_source=lambda context: source(attrs.evolve(context, variant="cuda")),
    )
    async with _with(spec, docker, tmp_path) as world:
        lines = await world.pull()
        await world.chat()

    assert "warning" not in {line["type"] for line in lines}
    (container,) = docker.containers.values()
    assert container.spec["HostConfig"]["DeviceRequests"] == [{"Count": -1, "Capabilities": [["gpu"]]}]
    assert container.spec["HostConfig"]["Runtime"] == "nvidia"


@asynccontextmanager
async def _with(spec: BackendSpec, docker: FakeDocker, root: Path) -> AsyncIterator[World]:
    environment: Mapping[str, str] = {"HOME": str(root), "DOCKER_HOST": f"unix://{docker.socket}"}
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=InMemoryRegistry(),
        processes=FakeProcessSupervisor(),
        entry_points=(),
        backends=(spec,),
    )
    async with open_service(Settings(models_path=root, environment=environment), overrides) as service:
        yield World(service, docker)


@pytest.mark.parametrize(
    ("broken", "status", "said"),
    [
        ({"POST /containers/create": (500, "no space left on device")}, 412, "no space left"),
        ({"POST /containers/": (500, 'could not select device driver ""')}, 412, "Container Toolkit"),
        ({"GET /images/": (500, "confused")}, 412, "confused"),
    ],
)
async def test_what_the_engine_refuses_is_passed_on_with_what_to_do(
    world: World, broken: dict[str, tuple[int, str]], status: int, said: str
) -> None:
    await world.pull()
    world.docker.broken = broken

    answer = await world.chat()

    assert (answer.status, said in answer.text) == (status, True), answer.text
    assert world.docker.containers == {}


async def test_an_engine_that_was_not_there_at_the_start_is_found_by_the_request_that_needs_it(
    docker: FakeDocker, tmp_path: Path
) -> None:
    docker.images = dict(docker.registry)
    await docker.stop()
    async with opened(docker, tmp_path) as world:
        missing = await world.chat()
        assert (missing.status, (await world.call("GET", "/models")).json()) == (404, [])
        refused = await world.call("POST", "/models/create", {"from": MODEL}, headers=[JSON])
        assert (refused.status, "start it" in refused.text) == (412, True)

        await docker.start()
        async with asyncio.timeout(10):
            while (answer := await world.chat()).status == 412:
                await asyncio.sleep(0.05)
    assert answer.status == 200, answer.text


async def test_an_engine_that_stops_ends_the_runner_and_one_that_is_back_serves_again(world: World) -> None:
    await world.pull()
    await world.chat()
    await world.docker.stop()
    async with asyncio.timeout(10):
        while await world.ps():
            await asyncio.sleep(0.01)
    assert (await world.chat()).status == 412

    await world.docker.start()
    async with asyncio.timeout(10):
        while (answer := await world.chat()).status == 412:
            await asyncio.sleep(0.05)
    assert answer.status == 200, answer.text


async def test_raw_flags_are_refused_and_a_context_size_reaches_the_container(world: World) -> None:
    await world.pull()
    flags = await world.call("POST", "/engines/_configure", {"model": MODEL, "runtime-flags": ["--x"]})
    size = await world.call("POST", "/engines/_configure", {"model": MODEL, "context-size": 4096})

    assert (flags.status, size.status) == (400, 202)
    assert (await world.chat()).status == 200
    (container,) = world.docker.containers.values()
    assert "NIM_MAX_MODEL_LEN=4096" in container.spec["Env"]
