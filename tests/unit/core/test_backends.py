"""Which engines there are, and which one a model gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import attrs
import pytest

from dmr_core.domain.artifact import Format, LayerType, ModelConfig
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig, EngineMode
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.errors import BackendNotFoundError, BackendNotInstalledError, UnsupportedFormatError
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine, LaunchRequest, RunningEngine
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.registry import Credentials
from dmr_core.services.backends import Backend, BackendService
from dmr_core.services.installing import installer as module
from dmr_core.testing.contracts.model_store import build_artifact, layer_of
from dmr_core.testing.fakes.process import FakeProcessSupervisor

RUNNING = BackendStatus(BackendState.RUNNING, "engine 1.0")
MISSING = BackendStatus(BackendState.NOT_INSTALLED, "no binary")


@attrs.define(eq=False)
class StatusEngine(Engine):
    """Has a status, and serves nothing. An error as its status is raised; ``None`` never comes."""

    answer: BackendStatus | BaseException | None = RUNNING
    health_path: str = "/health"

    async def status(self) -> BackendStatus:
        if self.answer is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(self.answer, BackendStatus):
            return self.answer
        assert self.answer is not None
        raise self.answer

    def check(self, config: EngineConfig) -> None:
        raise NotImplementedError

    async def start(self, request: LaunchRequest) -> RunningEngine:
        raise NotImplementedError


def entry(
    name: str,
    *formats: Format,
    priority: int = 0,
    modes: frozenset[EngineMode] = frozenset({EngineMode.COMPLETION}),
    status: BackendStatus | BaseException | None = RUNNING,
) -> Backend:
    engine = StatusEngine(status)
    spec = BackendSpec(
        name=name,
        summary=name,
        factory=lambda _context: engine,
        formats=frozenset(formats),
        priority=priority,
        modes=modes,
    )
    return Backend(spec, engine)


def service(*entries: Backend) -> BackendService:
    return BackendService({made.name: made for made in entries})


def model(text: str = "gguf") -> Model:
    """A model in the format ``text``; in no known one if that is empty."""
    layer = layer_of(b"weights", LayerType.GGUF if text else "application/octet-stream")
    artifact = build_artifact([layer], ModelConfig(format=text))
    return Model(id=artifact.id, tags=("docker.io/ai/m:latest",), manifest=artifact.manifest, config=artifact.config)


async def chosen(
    backends: BackendService,
    text: str = "gguf",
    mode: EngineMode = EngineMode.COMPLETION,
    requested: str | None = None,
) -> str:
    await backends.refresh()
    return backends.choose(model(text), mode, requested).name


# --- choosing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "requested", "expected"),
    [
        ("gguf", None, "llama.cpp"),
        ("safetensors", None, "vllm"),
        ("gguf", "echo", "echo"),
        ("", None, "llama.cpp"),
        ("", "any", "any"),
    ],
)
async def test_a_model_gets_the_backend_that_was_asked_for_if_it_can_else_the_best_of_its_format(
    text: str, requested: str | None, expected: str
) -> None:
    backends = service(
        entry("llama.cpp", Format.GGUF, priority=1),
        entry("echo", Format.GGUF, priority=-1),
        entry("vllm", Format.SAFETENSORS),
        entry("any", priority=-1),
    )

    assert expected == await chosen(backends, text, requested=requested)


async def test_the_highest_priority_wins_then_the_name() -> None:
    b, a, high = entry("b", Format.GGUF), entry("a", Format.GGUF), entry("z", Format.GGUF, priority=5)

    assert await chosen(service(b, a, high)) == "z"
    assert await chosen(service(b, a)) == "a"


async def test_what_is_not_installed_is_passed_over() -> None:
    best = entry("best", Format.GGUF, priority=9, status=MISSING)

    assert await chosen(service(best, entry("other", Format.GGUF))) == "other"


async def test_a_backend_nobody_has_looked_at_yet_counts_as_installed() -> None:
    backends = service(entry("best", Format.GGUF, status=MISSING))

    assert backends.choose(model(), EngineMode.COMPLETION, None).name == "best"


async def test_when_all_that_could_are_not_installed_that_is_said() -> None:
    with pytest.raises(BackendNotInstalledError, match="'best' is not installed: no binary"):
        await chosen(service(entry("best", Format.GGUF, status=MISSING)))


async def test_a_mode_somebody_knows_is_served_by_them() -> None:
    embedder = entry("embedder", Format.GGUF, priority=-5, modes=frozenset({EngineMode.EMBEDDING}))

    assert await chosen(service(entry("chat", Format.GGUF), embedder), mode=EngineMode.EMBEDDING) == "embedder"


async def test_a_mode_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"no engine here can rank documents with .* the mode 'reranking'"):
        await chosen(service(entry("chat", Format.GGUF)), mode=EngineMode.RERANKING)


@pytest.mark.parametrize(("text", "said"), [("dduf", "'dduf'"), ("", "'unknown'")])
async def test_a_format_nobody_reads_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"no backend can serve .*: its format is {said}"):
        await chosen(service(entry("chat", Format.GGUF)), text)


async def test_a_backend_nobody_registered_is_not_found() -> None:
    with pytest.raises(BackendNotFoundError, match="backend 'nope' not found"):
        await chosen(service(entry("chat", Format.GGUF)), requested="nope")


# --- status -----------------------------------------------------------------------------------------


async def test_each_backend_tells_its_status_or_what_it_did_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATUS_TIMEOUT", 0.01)
    backends = service(
        entry("well", status=RUNNING),
        entry("absent", status=MISSING),
        entry("silent", status=None),
        entry("raising", status=ValueError("no")),
        entry("leaving", status=SystemExit(3)),
    )

    assert await backends.statuses() == {
        "absent": MISSING,
        "leaving": BackendStatus(BackendState.ERROR, "SystemExit: 3"),
        "raising": BackendStatus(BackendState.ERROR, "ValueError: no"),
        "silent": BackendStatus(BackendState.ERROR, "no answer within 0.01 s"),
        "well": RUNNING,
    }


async def test_what_was_installed_meanwhile_is_seen_at_the_next_look() -> None:
    late = entry("late", Format.GGUF, status=MISSING)
    backends = service(late)
    await backends.refresh()
    assert isinstance(late.engine, StatusEngine)
    late.engine.answer = RUNNING

    assert await chosen(backends) == "late"


# --- building ---------------------------------------------------------------------------------------


def context(_spec: BackendSpec) -> EngineContext:
    return EngineContext(processes=FakeProcessSupervisor())


def test_a_factory_that_raises_is_reported_and_left_out() -> None:
    failures: list[tuple[str, str]] = []

    def raising(name: str, error: BaseException) -> BackendSpec:
        def factory(_context: EngineContext) -> Engine:
            raise error

        return BackendSpec(name=name, summary=name, factory=factory)

    specs = [raising("one", ValueError("no device")), raising("two", SystemExit(3)), entry("three").spec]
    backends, sources = BackendService.build(
        {spec.name: spec for spec in specs}, context, lambda name, error: failures.append((name, repr(error)))
    )

    assert failures == [("one", "ValueError('no device')"), ("two", "SystemExit(3)")]
    assert backends.get("three").spec is specs[2]
    assert sources == ()
    with pytest.raises(BackendNotFoundError):
        backends.get("one")


def test_a_model_source_that_cannot_be_made_costs_its_backend() -> None:
    def source(_context: EngineContext) -> ModelSource:
        raise RuntimeError("no docker")

    failures: list[str] = []
    spec = attrs.evolve(entry("nim").spec, model_source=source)
    backends, sources = BackendService.build({"nim": spec}, context, lambda name, _error: failures.append(name))

    assert (failures, sources) == (["nim"], ())
    with pytest.raises(BackendNotFoundError):
        backends.get("nim")


class Source(ModelSource):
    """Has no models."""

    def claims(self, reference: Reference) -> bool:
        return False

    def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncIterator[Progress]:
        raise NotImplementedError


def test_a_backend_may_bring_a_source_of_models() -> None:
    source = Source()
    spec = attrs.evolve(entry("nim").spec, model_source=lambda _context: source)
    backends, sources = BackendService.build({"nim": spec}, context, lambda _name, _error: None)

    assert (spec, (source,)) == (backends.get("nim").spec, sources)


def test_a_backend_claims_no_references_unless_it_says_so() -> None:
    assert not entry("any").spec.claims(parse_reference("one", ReferencePolicy()))


def test_a_status_is_told_in_one_line() -> None:
    assert (str(RUNNING), str(BackendStatus(BackendState.ERROR))) == ("Running: engine 1.0", "Error")


def test_an_interrupt_while_building_is_not_swallowed() -> None:
    def factory(_context: EngineContext) -> Engine:
        raise KeyboardInterrupt

    spec = BackendSpec(name="slow", summary="", factory=factory)
    with pytest.raises(KeyboardInterrupt):
        BackendService.build({"slow": spec}, context, lambda _name, _error: None)
