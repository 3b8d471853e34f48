"""Looking after the store of a service that runs: the routes, the models in use, and the pulls after a repair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import live_leases
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.domain.settings import Settings
from dmr_core.errors import ModelInUseError, StorageFullError
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.engine import FakeEngine, fake_backend
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.store_maintenance import InMemoryStoreMaintenance
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call

_LAYERS = (b"GGUF-one" * 10, b"GGUF-two" * 10)


@attrs.frozen
class World:
    root: Path
    service: Service
    engine: FakeEngine
    registry: InMemoryRegistry
    artifact: Artifact

    async def call(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        return await call(self.service.app, method, path, body, **options)

    async def pull(self) -> list[str]:
        """Pull the model; the blobs that were asked for."""
        self.registry.requests.clear()
        answer = await self.call("POST", "/models/create", {"from": "one"}, headers=[("accept", "application/json")])
        assert json.loads(answer.text.splitlines()[-1])["type"] == "success", answer.text
        return [request for request in self.registry.requests if request.startswith("blob ")]

    async def chat(self) -> Answer:
        body = {"model": "one", "messages": [{"role": "user", "content": "Hi"}]}
        return await self.call("POST", "/v1/chat/completions", body)

    async def lines(self, path: str, body: Any) -> list[dict[str, Any]]:
        answer = await self.call("POST", path, body)
        assert answer.status == 200
        return [json.loads(line) for line in answer.text.splitlines()]

    def blob(self, data: bytes) -> Path:
        return self.root / "blobs" / "sha256" / Digest.of(data).hex


@asynccontextmanager
async def make_world(root: Path, **changes: Any) -> AsyncIterator[World]:
    transport, registry = InMemoryTransport(), InMemoryRegistry()
    engine = FakeEngine(transport)
    artifact = build_artifact([layer_of(data) for data in _LAYERS])
    registry.seed(parse_reference("one", ReferencePolicy()), artifact, _LAYERS)
    overrides = Overrides(
        registry=registry,
        transport=transport,
        processes=FakeProcessSupervisor(),
        entry_points=(),
        backends=(fake_backend(engine),),
        **changes,
    )
    async with open_service(Settings(models_path=root, max_runners=1), overrides) as service:
        yield World(root, service, engine, registry, artifact)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path / "models") as made:
        yield made


async def test_after_a_repair_a_pull_fetches_exactly_the_damaged_blob(world: World) -> None:
    assert len(await world.pull()) > 1
    path = world.blob(_LAYERS[1])
    path.chmod(0o644)
    path.write_bytes(bytes(len(_LAYERS[1])))
    *progress, report = await world.lines("/dmr/v1/store/check", {})
    assert {line["type"] for line in progress} == {"progress"}
    (finding,) = report["findings"]
    assert (report["type"], report["clean"], finding["kind"]) == ("report", False, "blob-damaged")
    assert finding["models"] == ["docker.io/ai/one:latest"]
    *_, report = await world.lines("/dmr/v1/store/check", {"repair": True})
    assert report["clean"]
    assert (await world.call("GET", "/models")).json() == []
    layers = [request for request in await world.pull() if str(world.artifact.manifest.config.digest) not in request]
    assert [request.partition("@")[0] for request in layers] == [f"blob {Digest.of(_LAYERS[1])}"]
    (model,) = (await world.call("GET", "/models")).json()
    assert (model["id"], model["tags"]) == (str(world.artifact.id), ["docker.io/ai/one:latest"])
    assert (await world.chat()).status == 200


async def test_a_running_model_is_leased_until_its_engine_is_gone(world: World) -> None:
    await world.pull()
    layout, other = StoreLayout(world.root), await FilesystemModelStore.open(world.root)
    assert (await world.chat()).status == 200
    assert [lease.digests for lease in live_leases(layout)] == [{world.artifact.id}]
    with pytest.raises(ModelInUseError):
        await other.remove(world.artifact.id)
    await world.call("POST", "/engines/unload", {"all": True})
    assert list(live_leases(layout)) == []
    await other.remove(world.artifact.id)
    assert other.models() == ()


async def test_the_lease_of_an_engine_that_dies_ends(world: World) -> None:
    await world.pull()
    await world.chat()
    layout = StoreLayout(world.root)
    assert len(list(live_leases(layout))) == 1
    (view,) = world.service.services.scheduler.runners()
    world.engine.started[-1].crash()
    await world.service.services.scheduler.settled([view.id])
    assert list(live_leases(layout)) == []


async def test_an_engine_that_cannot_start_leaves_no_lease(world: World) -> None:
    await world.pull()
    world.engine.fail_with = StorageFullError("no")
    assert (await world.chat()).status != 200
    assert list(live_leases(StoreLayout(world.root))) == []


async def test_a_model_that_is_idle_in_this_service_is_removed_at_once(world: World) -> None:
    await world.pull()
    await world.chat()
    answer = await world.call("DELETE", "/models/one")
    assert answer.json() == [{"Untagged": "docker.io/ai/one:latest"}, {"Deleted": str(world.artifact.id)}]
    assert list((world.root / "blobs" / "sha256").iterdir()) == []


async def test_purge_unloads_what_is_idle_and_forgets_everything(world: World) -> None:
    await world.pull()
    settings = {"model": "one", "context-size": 64}
    assert (await world.call("POST", "/engines/_configure", settings)).status == 202
    await world.chat()
    while any(view.leases for view in world.service.services.scheduler.runners()):
        await asyncio.sleep(0)  # what configuring loads the model for
    answer = await world.call("DELETE", "/models/purge")
    assert (200, "") == (answer.status, answer.text), answer.text
    assert (await world.call("GET", "/models")).json() == []
    assert (await world.call("GET", "/engines/ps")).json() == []
    assert (await world.call("GET", "/engines/_configure")).json() == []
    assert list((world.root / "blobs" / "sha256").iterdir()) == []
    assert len(await world.pull()) > 1


async def test_purge_is_refused_while_a_model_answers(world: World) -> None:
    await world.pull()
    inference = world.service.services.inference
    with await inference.lease(inference.plan("one", EngineMode.COMPLETION, None)):
        answer = await world.call("DELETE", "/models/purge")
    assert answer.status == 409
    assert answer.text.startswith("error while purging models: 'one' is answering; unload")
    assert len((await world.call("GET", "/models")).json()) == 1


async def test_purge_of_a_directory_that_is_no_store_says_what_the_reference_says(world: World) -> None:
    (world.root / "layout.json").unlink()
    answer = await world.call("DELETE", "/models/purge")
    assert answer.status == 500
    assert answer.text.strip() == (
        f'error while purging models: refusing to reset: directory "{world.root}"'
        " does not appear to be a model store (missing layout.json)"
    )


async def test_prune_answers_what_it_removes(world: World) -> None:
    await world.pull()
    await put_blob(world.service.services.store, b"loose")
    expected = {
        "dry_run": True,
        "count": 1,
        "size": 5,
        "removed": [{"kind": "unreferenced-blob", "count": 1, "size": 5}],
        "models": [],
        "kept": 0,
        "failed": [],
    }
    assert (await world.call("POST", "/dmr/v1/store/prune", {"dry_run": True})).json() == expected
    assert (await world.call("POST", "/dmr/v1/store/prune")).json() == {**expected, "dry_run": False}
    assert not world.blob(b"loose").exists()


async def test_prune_of_untagged_models_leaves_the_running_one(world: World) -> None:
    await world.pull()
    await world.chat()
    await world.service.services.store.untag("docker.io/ai/one:latest")
    assert (await world.call("POST", "/dmr/v1/store/prune", {"all": True})).json()["models"] == []
    await world.call("POST", "/engines/unload", {"all": True})
    pruned = (await world.call("POST", "/dmr/v1/store/prune", {"all": True})).json()
    assert pruned["models"] == [str(world.artifact.id)]
    assert (await world.call("GET", "/models")).json() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("prune", {"all": "yes"}),
        ("prune", {"partials_older_than": -1}),
        ("prune", b"{"),
        ("check", {"repair": None}),
    ],
)
async def test_a_body_that_cannot_be_right_is_refused(world: World, path: str, body: Any) -> None:
    assert (await world.call("POST", f"/dmr/v1/store/{path}", body)).status == 400


async def test_usage_answers_where_the_bytes_are(world: World) -> None:
    await world.pull()
    usage = (await world.call("GET", "/dmr/v1/store/usage")).json()
    (model,) = usage["models"]
    assert (model["id"], model["tags"], model["shared"]) == (
        str(world.artifact.id),
        ["docker.io/ai/one:latest"],
        0,
    )
    assert model["size"] == model["unique"] > sum(map(len, _LAYERS))
    assert usage["total"] == (await world.call("GET", "/engines/df")).json()["models_disk_usage"]
    await world.chat()
    again = (await world.call("GET", "/dmr/v1/store/usage")).json()
    assert again["total"] - usage["total"] < sum(map(len, _LAYERS)), "the links of a bundle take nothing"


async def test_a_store_that_was_put_in_is_never_mistaken_for_the_one_at_the_models_path(tmp_path: Path) -> None:
    await FilesystemModelStore.open(tmp_path)
    async with make_world(tmp_path, store=InMemoryModelStore()) as world:
        await world.pull()
        assert (await world.call("DELETE", "/models/purge")).status == 500
        assert (await world.call("POST", "/dmr/v1/store/prune")).status == 412
        (line,) = [line for line in await world.lines("/dmr/v1/store/check", {}) if line["type"] == "error"]
        assert "somebody else" in line["message"]


@pytest.fixture
def in_memory() -> tuple[InMemoryModelStore, InMemoryStoreMaintenance]:
    store = InMemoryModelStore()
    return store, InMemoryStoreMaintenance(store)


async def test_a_client_that_leaves_ends_its_check(
    tmp_path: Path, in_memory: tuple[InMemoryModelStore, InMemoryStoreMaintenance]
) -> None:
    store, maintenance = in_memory
    maintenance.gate.clear()
    async with make_world(tmp_path, store=store, maintenance=maintenance) as world:
        events = world.service.services.management().maintenance.check()
        assert (await anext(events)) is not None
        await events.aclose()
        assert [task for task in asyncio.all_tasks() if "maintenance" in repr(task.get_coro())] == []


async def test_a_model_runs_unprotected_where_a_lease_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FullStore(InMemoryModelStore):
        full = False

        @asynccontextmanager
        async def lease(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
            if self.full:
                raise StorageFullError("the disk is full")
            async with super().lease(digests):
                yield

    store = FullStore()
    async with make_world(tmp_path, store=store) as made:
        await made.pull()
        store.full = True
        assert (await made.chat()).status == 200
    assert "not protected" in caplog.text


async def test_checks_without_a_service_work_on_the_same_directory(world: World) -> None:
    await world.pull()
    assert (await FilesystemStoreMaintenance(world.root).check(repair=True)).findings == ()
