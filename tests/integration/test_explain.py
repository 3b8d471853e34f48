"""What ``explain`` says of a model against what its engine is really started with, for anything that may be said."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import event, example, given, settings

from dmr_backends_llamacpp.plugin import dmr_backends
from dmr_backends_vllm.plugin import dmr_backends as vllm_backends
from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_cli.server.settings import read_settings
from dmr_core.domain.artifact import LayerType, ModelConfig
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.process import ProcessSpec
from dmr_core.ports.transport import Endpoint
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from dmr_core.testing.fakes.model_files import InMemoryModelFiles
from dmr_core.testing.fakes.model_store import InMemoryModelStore
from dmr_core.testing.fakes.process import FakeProcess, FakeProcessSupervisor
from dmr_core.testing.fakes.transport import Answer as UpstreamAnswer
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import call
from tests.explaining import PATHS, Case, Use, cases, check_bundled, check_settings, expected_claims


class RecordingSupervisor(FakeProcessSupervisor):
    """Starts nothing, and lets whoever it starts be well at once; ``starts`` are the vectors."""

    def __init__(self, transport: InMemoryTransport) -> None:
        super().__init__()
        self.starts: list[list[str]] = []
        self._transport = transport

    async def start(self, spec: ProcessSpec) -> FakeProcess:
        async def well(_request: object) -> UpstreamAnswer:
            return UpstreamAnswer(body=b'{"model":"ai/one"}', headers=((b"content-type", b"application/json"),))

        where = [path for flag, path in itertools.pairwise(spec.argv) if flag in {"--host", "--uds"}]
        if where:
            self.starts.append(list(spec.argv))
            self._transport.serve(Endpoint(socket=Path(where[0])), well)
        process = await super().start(spec)
        if "--version" in spec.argv:
            process.finish(0)
        return process


LAYERS: Final = {"template": LayerType.CHAT_TEMPLATE, "mmproj": LayerType.MMPROJ, "lora": LayerType.LORA}


async def add_model(
    store: ModelStore,
    name: str,
    layers: Sequence[tuple[bytes, str]],
    context_size: int | None,
    format_: str = "gguf",
) -> Model:
    """A model of these layers, under this name."""
    for data, _ in layers:
        await put_blob(store, data)
    config = ModelConfig(format=format_, context_size=context_size)
    model = await store.add(build_artifact([layer_of(data, kind) for data, kind in layers], config))
    return await store.tag(model.id, parse_reference(name, ReferencePolicy()))


async def make_store(case: Case) -> tuple[InMemoryModelStore, dict[str, str]]:
    """A store with the model of the case and a draft model, and what files of theirs are called here."""
    store = InMemoryModelStore()
    names: dict[str, str] = {}
    ours = [(b"ai/one", LayerType.GGUF), *((layer.encode(), LAYERS[layer]) for layer in sorted(case.layers))]
    model = await add_model(store, "ai/one", ours, case.packaged)
    bundle = await store.bundle(model.id)
    for path, shown in ((bundle.chat_template, "TEMPLATE"), (bundle.mmproj, "MMPROJ")):
        names |= {str(path): shown} if path else {}
    names |= {str(path): "LORA" for path in bundle.loras}
    draft = await add_model(store, "ai/draft", [(b"ai/draft", LayerType.GGUF)], None)
    names[str((await store.bundle(draft.id)).gguf)] = "ai/draft"
    return store, names


async def play(case: Case, directory: Path) -> None:
    """Say everything, and compare what explain says with what was started."""
    store, names = await make_store(case)
    transport = InMemoryTransport()
    processes = RecordingSupervisor(transport)
    environment = {"PATH": "/nowhere", "MODELS_PATH": "/nowhere", **case.environment}
    if case.native:
        environment["LLAMA_SERVER_PATH"] = str(directory)
    overrides = Overrides(
        store=store, transport=transport, processes=processes, entry_points=(), backends=tuple(dmr_backends())
    )
    query = f"model=ai/one&mode={case.mode}" + ("&backend=llama.cpp" if case.backend_in_path else "")
    async with open_service(read_settings(environment), overrides) as service:

        async def explain() -> dict[str, Any]:
            answer = await call(service.app, "GET", f"/dmr/v1/explain?{query}")
            assert answer.status == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        answer = await call(service.app, "POST", "/engines/_configure", case.body)
        assert answer.status == 202, answer.text
        cold = await explain()
        check_settings(cold, expected_claims(case, running=False), names, case)

        asked: dict[str, Any] = {"model": "ai/one", "messages": [], "input": "x", "query": "x", "documents": []}
        if case.keep_alive_in_request is not None:
            asked["keep_alive"] = case.keep_alive_in_request
        answer = await call(service.app, "POST", PATHS[case.mode], asked)
        assert answer.status == 200, answer.text
        await service.services.scheduler.decided()
        actual = processes.starts[-1]
        host = actual[actual.index("--host") + 1]
        for found in (cold, warm := await explain()):
            assert [host if word == "SOCKET" else word for word in found["argv"]] == actual
        alive = [running for running in warm["running"] if running["phase"] != "retiring"]
        if not alive:  # of a keep-alive of nothing
            assert KeepAlive.parse(str(case.configuration.get("keep_alive"))) == KeepAlive(0)
            return
        (running,) = alive
        assert (running["argv"], running["restart_pending"]) == (actual, False)
        check_settings(warm, expected_claims(case, running=True), names, case)
        if not case.native:
            check_bundled(warm, actual, names)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a llama-server in it, which is never started."""
    directory = tmp_path_factory.mktemp("native")
    program = directory / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return directory


C, CTX = Use("-c", "256"), Use("--ctx-size", "0")


@given(case=cases())
@settings(max_examples=int(os.environ.get("DMR_EXPLAIN_EXAMPLES", "300")), deadline=None)
@example(case=Case())
@example(case=Case(packaged=128, llama_args=(C,), configuration={"context-size": 512}, flags=(CTX, C)))
@example(case=Case(llama_args=(Use("--no-jinja", None),), flags=(Use("--jinja", None),), raw=True))
@example(case=Case(layers=frozenset({"template", "mmproj"}), flags=(Use("--no-mmproj", None),)))
@example(case=Case(mode="reranking", mode_flag="--reranking"))
def test_what_explain_says_is_what_the_engine_is_started_with(native: Path, case: Case) -> None:
    event(f"mode {case.mode}")
    event(f"LLAMA_ARGS {'set' if case.llama_args else 'not set'}")
    asyncio.run(play(case, native))


class Playground:
    """A service on a store whose models change while it runs; ``starts`` are argument vectors of engines."""

    def __init__(self, service: Service, store: InMemoryModelStore, starts: list[list[str]]) -> None:
        self.service = service
        self.store = store
        self.starts = starts

    async def explain(self, name: str = "ai/one") -> dict[str, Any]:
        answer = await call(self.service.app, "GET", f"/dmr/v1/explain?model={name}")
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def configure(self, **change: Any) -> None:
        answer = await call(self.service.app, "POST", "/engines/_configure", {"model": "ai/one"} | change)
        assert answer.status == 202, answer.text

    async def chat(self, name: str = "ai/one") -> None:
        answer = await call(self.service.app, "POST", PATHS["completion"], {"model": name, "messages": []})
        assert answer.status == 200, answer.text


@asynccontextmanager
async def playground(**environment: str) -> AsyncIterator[Playground]:
    store, _ = await make_store(Case(packaged=128))
    transport = InMemoryTransport()
    processes = RecordingSupervisor(transport)
    overrides = Overrides(
        store=store,
        transport=transport,
        processes=processes,
        model_files=InMemoryModelFiles(),
        entry_points=(),
        backends=(*dmr_backends(), *vllm_backends()),
    )
    said = {"PATH": "/nowhere", "MODELS_PATH": "/nowhere", **environment}
    async with open_service(read_settings(said), overrides) as service:
        yield Playground(service, store, processes.starts)


async def test_a_runner_with_a_draft_model_that_is_another_by_now_is_to_be_restarted() -> None:
    async with playground() as world:
        await world.configure(speculative={"draft_model": "ai/draft"})
        await world.chat()
        (running,) = (found := await world.explain())["running"]
        assert running["restart_pending"] is False
        before = found["argv"]

        other = await add_model(world.store, "ai/other", [(b"other", LayerType.GGUF)], None)
        await world.store.tag(other.id, parse_reference("ai/draft", ReferencePolicy()))
        (running,) = (found := await world.explain())["running"]
        assert running["restart_pending"] is True
        assert found["argv"] != before
        assert [word for word in before if word != "SOCKET"] == [
            word for word in running["argv"] if ".sock" not in word
        ]


async def test_a_runner_of_a_program_that_is_another_by_now_is_to_be_restarted(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.touch(0o755)
    async with playground(LLAMA_SERVER_PATH=str(tmp_path)) as world:
        await world.chat()
        assert [one["restart_pending"] for one in (await world.explain())["running"]] == [False]
        program.rename(tmp_path / "com.docker.llama-server")
        (running,) = (found := await world.explain())["running"]
        assert running["restart_pending"] is True
        assert (running["argv"][0], found["argv"][0]) == (str(program), str(tmp_path / "com.docker.llama-server"))


async def test_where_no_engine_is_installed_that_is_said(tmp_path: Path) -> None:
    async with playground(LLAMA_SERVER_PATH=str(tmp_path)) as world:
        answer = await call(world.service.app, "GET", "/dmr/v1/explain?model=ai/one&backend=llama.cpp")
        assert (answer.status, "there is no executable llama-server" in answer.text) == (412, True)


async def test_values_of_flags_that_are_named_like_secrets_are_hidden(tmp_path: Path) -> None:
    (tmp_path / "llama-server").touch(0o755)
    arguments = "--some-api-key swordfish --other-password=swordfish --temp 0.5"
    async with playground(LLAMA_SERVER_PATH=str(tmp_path), LLAMA_ARGS=arguments) as world:
        await world.chat()
        found = await world.explain()
        assert "swordfish" not in str(found)
        assert {one["name"]: one["value"] for one in found["settings"]}["--some-api-key"] == "***"
        assert found["argv"][1:7] == ["--some-api-key", "***", "--other-password", "***", "--temp", "0.5"]


async def test_who_asks_for_the_keep_alive_that_is_in_force_changes_nothing() -> None:
    async with playground(DMR_KEEP_ALIVE="20m") as world:
        body = {"model": "ai/one", "messages": [], "keep_alive": "20m"}
        assert (await call(world.service.app, "POST", PATHS["completion"], body)).status == 200
        (kept,) = [one for one in (await world.explain())["settings"] if one["name"] == "keep_alive"]
        assert (kept["value"], kept["source"]) == ("20m0s", "environment")


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, [("2048", "artifact")]),
        ({"context-size": 512}, [("512", "configuration"), ("2048", "artifact")]),
        (
            {"context-size": 512, "runtime-flags": ["--max-model-len", "64"]},
            [("64", "configuration"), ("512", "configuration"), ("2048", "artifact")],
        ),
        ({"context-size": -1}, [("-1", "configuration"), ("2048", "artifact"), ("the engine's own", "default")]),
    ],
    ids=["packaged", "configured", "flag", "own"],
)
async def test_vllm_is_explained_as_it_is_started(
    tmp_path: Path, change: dict[str, Any], size: list[tuple[str, str]]
) -> None:
    program = tmp_path / "vllm"
    program.touch(0o755)
    change = {**change, "vllm": {"gpu-memory-utilization": 0.5}}
    async with playground(VLLM_SERVER_PATH=str(program)) as world:
        weights = [(b"weights", LayerType.SAFETENSORS), (b"template", LayerType.CHAT_TEMPLATE)]
        await add_model(world.store, "ai/tensors", weights, 2048, "safetensors")
        await world.configure(model="ai/tensors", **change)
        await world.chat("ai/tensors")
        found = await world.explain("ai/tensors")
        (running,) = found["running"]
        (actual,) = world.starts
        assert (running["argv"], running["restart_pending"]) == (actual, False)
        socket = actual[actual.index("--uds") + 1]
        assert [socket if word == "SOCKET" else word for word in found["argv"]] == actual

        said = {one["name"]: one for one in found["settings"]}
        claims = [said["context-size"], *said["context-size"]["overrode"]]
        assert [(claim["value"], claim["source"]) for claim in claims] == size
        lengths = [value for flag, value in itertools.pairwise(actual) if flag == "--max-model-len"]
        assert lengths == ([] if size[0][0] == "-1" else [size[0][0]])
        share = said["vllm.gpu-memory-utilization"]
        assert (share["value"], share["source"]) == ("0.5", "configuration")
        assert (said["program"]["value"], said["program"]["source"]) == (str(program), "environment")
