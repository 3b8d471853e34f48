"""Backends over HTTP, in one process: status, installing, removing, on-demand installation, and the choice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.artifact import Format
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import BackendInstallError, InvalidConfigurationError
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.metrics import InMemoryMetrics
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import artifact

STOCK = ("user-agent", "docker-model-cli/v1.0")
NDJSON = ("accept", "application/x-ndjson")


@attrs.frozen
class World:
    """A service with two backends: ``fake`` reads GGUF and is there; ``late`` reads it too and comes on demand."""

    service: Service
    fake: FakeEngine
    late: FakeEngine

    async def call(self, method: str, path: str, body: Any = b"", *headers: tuple[str, str]) -> Answer:
        return await call(self.service.app, method, path, body, headers)

    async def install(self, name: str, *headers: tuple[str, str]) -> Answer:
        return await self.call("POST", "/engines/install-backend", {"backend": name}, *headers)

    async def uninstall(self, name: str, *headers: tuple[str, str]) -> Answer:
        return await self.call("POST", "/engines/uninstall-backend", {"backend": name}, *headers)

    async def chat(self, path: str = "/v1/chat/completions", *headers: tuple[str, str]) -> Answer:
        body = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
        return await self.call("POST", path, body, *headers)

    async def status(self) -> dict[str, str]:
        found: dict[str, str] = (await self.call("GET", "/engines/status")).json()
        return found

    async def details(self, name: str) -> dict[str, Any]:
        found = (await self.call("GET", "/dmr/v1/backends")).json()["backends"]
        return next(entry for entry in found if entry["name"] == name)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    transport, registry = InMemoryTransport(), InMemoryRegistry()
    fake, late = FakeEngine(transport), FakeEngine(transport, "late", installed=False)
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=InMemoryMetrics(),
        entry_points=(),
        backends=(fake_backend(fake), attrs.evolve(fake_backend(late), installs=True, priority=-1)),
    )
    made, weights = artifact(b"ai/one")
    registry.seed(parse_reference("ai/one", ReferencePolicy()), made, [weights])
    async with open_service(Settings(models_path=Path("/nowhere"), max_runners=2), overrides) as service:
        await call(service.app, "POST", "/models/create", {"from": "one"})
        yield World(service, fake, late)


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


# --- status -----------------------------------------------------------------------------------------


async def test_status_is_a_map_of_sentences_without_a_newline(world: World) -> None:
    answer = await world.call("GET", "/engines/status")

    assert b'{"fake":"Running: fake 1.0","late":"Not Installed: package not installed"}' == answer.body


async def test_details_of_a_backend(world: World) -> None:
    assert {
        "name": "late",
        "summary": "A fake",
        "state": "not-installed",
        "status": "Not Installed",
        "detail": "package not installed",
        "program": None,
        "formats": ["gguf"],
        "modes": ["completion", "embedding"],
        "supported": True,
        "on_demand": True,
        "share": None,
        "attempts": 0,
        "retry_in": 0.0,
        "next": "`dmr backend install late` installs it",
    } == await world.details("late")
    assert "" == (await world.details("fake"))["next"]


# --- installing and removing ------------------------------------------------------------------------


async def test_install_blocks_until_it_is_done_and_answers_nothing(world: World) -> None:
    world.late.may_install.clear()
    asked = asyncio.ensure_future(world.install("late"))
    await turns()
    assert not asked.done()
    assert (await world.status())["late"] == "Installing: downloading fake 1.0 (50%)"
    assert (await world.details("late"))["share"] == 0.5
    world.late.may_install.set()

    answer = await asked
    assert (200, b"") == (answer.status, answer.body)
    assert (await world.status())["late"] == "Running: late 1.0"
    assert 200 == (await world.install("late")).status
    assert [None] == world.late.installs


@pytest.mark.parametrize("accept", ["application/x-ndjson", "application/json"])
async def test_install_streams_its_progress_to_whoever_accepts_it(world: World, accept: str) -> None:
    answer = await world.install("late", ("accept", accept))

    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert (200, accept) == (answer.status, answer.headers["content-type"])
    assert {"type": "success", "message": "late backend installed successfully", "mode": "install"}.items() <= lines[
        -1
    ].items()
    assert {line["type"] for line in lines[:-1]} <= {"progress"}


async def test_a_failure_ends_a_stream_with_a_typed_error(world: World) -> None:
    world.late.install_fails = BackendInstallError("no network")
    last = json.loads((await world.install("late", NDJSON)).text.splitlines()[-1])

    assert ("error", "backend_install_failed") == (last["type"], last["code"])
    assert "Error: backend installation failed: no network" == last["message"]


@pytest.mark.parametrize("headers", [(), (STOCK,)])
@pytest.mark.parametrize(
    ("verb", "body", "status", "text"),
    [
        ("install", b"", 400, "invalid request: backend is required"),
        ("install", {"backend": ""}, 400, "invalid request: backend is required"),
        ("install", {"backend": 1}, 400, "invalid request: backend is required"),
        ("install", {"backend": "nope"}, 404, "backend not found"),
        ("install", {"backend": "late"}, 500, "backend installation failed: no network"),
        ("uninstall", b"{", 400, "invalid request: backend is required"),
        ("uninstall", {"backend": "nope"}, 404, "backend not found"),
        ("uninstall", {"backend": "fake"}, 500, "backend uninstall failed: in use elsewhere"),
    ],
)
async def test_refusals_have_the_texts_that_clients_know(
    world: World, verb: str, body: Any, status: int, text: str, headers: tuple[tuple[str, str], ...]
) -> None:
    world.late.install_fails = BackendInstallError("no network")
    world.fake.uninstall_fails = BackendInstallError("in use elsewhere")
    answer = await world.call("POST", f"/engines/{verb}-backend", body, *headers)

    assert (status, text + "\n") == (answer.status, answer.text)


async def test_removing_unloads_what_is_idle_first(world: World) -> None:
    await world.chat()
    answer = await world.uninstall("fake")

    assert (200, b"") == (answer.status, answer.body)
    assert world.fake.started[0].stopped
    assert (await world.status())["fake"] == "Not Installed: package not installed"


async def test_removing_what_is_busy_is_a_conflict_and_changes_nothing(world: World) -> None:
    world.fake.ready.clear()
    asked = asyncio.ensure_future(world.chat())
    while not world.fake.started:
        await asyncio.sleep(0)
    answer = await world.uninstall("fake")
    assert 409 == answer.status
    assert "backend uninstall failed: fake is in use: 'one' is loading" in answer.text
    world.fake.ready.set()

    assert (await asked).status == 200
    assert (await world.chat()).status == 200
    assert len(world.fake.started) == 1


# --- on demand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(), (STOCK,)])
async def test_the_first_request_that_needs_it_installs_it_and_gets_json_alone(
    world: World, headers: tuple[tuple[str, str], ...]
) -> None:
    """The reference writes ``Installing …`` in front of the JSON for its own client."""
    answers = await asyncio.gather(*(world.chat("/engines/late/v1/chat/completions", *headers) for _ in range(4)))

    assert [None] == world.late.installs
    for answer in answers:
        assert (200, "application/json") == (answer.status, answer.headers["content-type"])
        assert answer.json()["choices"][0]["message"]["content"] == "hi"


async def test_a_request_that_cannot_be_installed_for_is_told_when_to_come_back(world: World) -> None:
    world.late.install_fails = BackendInstallError("no network")
    first = await world.chat("/engines/late/v1/chat/completions")
    second = await world.chat("/engines/late/v1/chat/completions")

    assert [503, 503] == [first.status, second.status]
    assert "backend installation failed: no network" == first.json()["error"]["message"]
    assert "5" == second.headers["retry-after"]
    assert [None] == world.late.installs
    assert 429 == (await world.chat("/engines/late/v1/chat/completions", STOCK)).status


async def test_a_backend_that_was_removed_is_not_used_on_the_strength_of_an_older_choice(world: World) -> None:
    assert (await world.chat()).status == 200
    await world.uninstall("fake")

    assert (await world.chat()).status == 200
    assert len(world.late.started) == 1, "the other one, which comes on demand"


async def test_a_client_that_leaves_leaves_the_installation(world: World) -> None:
    world.late.may_install.clear()
    answer = asyncio.ensure_future(world.chat("/engines/late/v1/chat/completions"))
    await turns()
    answer.cancel()
    await asyncio.gather(answer, return_exceptions=True)
    assert (await world.details("late"))["state"] == "installing"
    world.late.may_install.set()
    await turns()
    assert (await world.details("late"))["state"] == "installed"


# --- choosing ---------------------------------------------------------------------------------------


@pytest.fixture
async def two_formats() -> AsyncIterator[World]:
    transport, registry = InMemoryTransport(), InMemoryRegistry()
    fake, other = FakeEngine(transport), FakeEngine(transport, "other")
    overrides = Overrides(
        store=InMemoryModelStore(),
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        metrics=InMemoryMetrics(),
        entry_points=(),
        backends=(fake_backend(fake), fake_backend(other, frozenset({Format.SAFETENSORS}))),
    )
    made, weights = artifact(b"ai/one")
    registry.seed(parse_reference("ai/one", ReferencePolicy()), made, [weights])
    async with open_service(Settings(models_path=Path("/nowhere"), max_runners=2), overrides) as service:
        await call(service.app, "POST", "/models/create", {"from": "one"})
        yield World(service, fake, other)


async def test_an_order_that_cannot_be_met_is_refused(two_formats: World) -> None:
    answer = await two_formats.chat("/engines/other/v1/chat/completions")

    assert (422, "unsupported_format") == (answer.status, answer.json()["error"]["code"])
    assert "backend 'other' cannot serve" in answer.json()["error"]["message"]
    assert "'fake' can" in answer.json()["error"]["message"]


async def test_the_stock_clis_path_is_a_preference(two_formats: World) -> None:
    assert 200 == (await two_formats.chat("/engines/other/v1/chat/completions", STOCK)).status


@pytest.mark.parametrize(
    ("path", "reason"), [("/v1/chat/completions", "format"), ("/engines/fake/v1/chat/completions", "requested")]
)
async def test_an_answer_says_who_gave_it_and_why(two_formats: World, path: str, reason: str) -> None:
    assert f"fake; reason={reason}" == (await two_formats.chat(path)).headers["x-dmr-backend"]


async def test_settings_the_best_backend_refuses_take_the_model_to_one_that_honours_them(world: World) -> None:
    """And back, once they are gone."""
    await world.install("late")
    assert "fake; reason=priority" == (await world.chat()).headers["x-dmr-backend"]
    world.fake.refuse = InvalidConfigurationError("fake knows no context size")
    body = {"model": "one", "context-size": 64}
    assert 202 == (await world.call("POST", "/engines/_configure", body)).status

    assert "late; reason=settings" == (await world.chat()).headers["x-dmr-backend"]
    world.fake.refuse = None
    assert 202 == (await world.call("POST", "/engines/_configure", {"model": "one"})).status
    assert "fake; reason=priority" == (await world.chat()).headers["x-dmr-backend"]
