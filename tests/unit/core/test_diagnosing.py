"""What people are told about a model: true, and with numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Footprint, Memory
from dmr_core.errors import BackendNotInstalledError, DmrError, EngineExitedError, ModelNotFoundError
from dmr_core.services.catalog import CatalogService
from dmr_core.services.diagnosing import DiagnosingService, Diagnosis, describe, span
from dmr_core.services.scheduling.history import Decision, History
from dmr_core.services.scheduling.lease import RunnerView, WaitingView
from dmr_core.services.scheduling.scheduler import Scheduler
from dmr_core.services.scheduling.state import Phase, Setback
from dmr_core.testing.fakes.clock import FakeClock

ID = Digest.of(b"one")
KEY = RunnerKey("llama.cpp", ID, EngineMode.COMPLETION)
OTHER = RunnerKey("llama.cpp", Digest.of(b"two"), EngineMode.COMPLETION)
NOW, WALL = 1000.0, 1_700_000_000.0
GIB = 1024**3


@attrs.define
class World:
    """A scheduler that is only looked at, and a catalog of one model."""

    runners: list[RunnerView] = attrs.field(factory=list)
    waiting: list[WaitingView] = attrs.field(factory=list)
    setbacks: dict[RunnerKey, Setback] = attrs.field(factory=dict)
    history: History = attrs.field(factory=History)
    capacity: Capacity = attrs.field(factory=Capacity)
    unservable: DmrError | None = None

    async def why(self, name: str = "one", mode: EngineMode | None = None) -> Diagnosis:
        scheduler = SimpleNamespace(
            runners=lambda: tuple(self.runners),
            waiting=lambda: tuple(self.waiting),
            setbacks=self.setbacks,
            history=self.history,
            capacity=self.capacity,
        )
        service = DiagnosingService(
            catalog=cast(CatalogService, SimpleNamespace(find_fresh=self._find)),
            scheduler=cast(Scheduler, scheduler),
            clock=FakeClock(monotonic=NOW, time=WALL),
            servable=self._servable,
        )
        return await service.diagnose(name, mode)

    def decided(self, what: str, why: str = "", ago: float = 60.0, key: RunnerKey = KEY, **numbers: float) -> None:
        self.history.add(Decision(at=WALL - ago, key=key, alias="one", what=what, why=why, numbers=numbers))

    async def _find(self, name: str) -> Any:
        if name != "one":
            raise ModelNotFoundError(name)
        return SimpleNamespace(id=ID)

    def _servable(self, _name: str, _mode: EngineMode) -> None:
        if self.unservable is not None:
            raise self.unservable


def runner(key: RunnerKey = KEY, **fields: Any) -> RunnerView:
    """A runner that has been ready for 100 s, and idle for 20 s of them."""
    usual: dict[str, Any] = {
        "id": 1,
        "alias": "one",
        "phase": Phase.READY,
        "leases": 0,
        "idle_since": NOW - 20,
        "since": NOW - 100,
        "load_seconds": 2.5,
        "keep_alive": KeepAlive(300.0),
        "needs": Memory(2 * GIB),
        "footprint": Footprint(resident=GIB),
    }
    return RunnerView(key=key, **{**usual, **fields})


async def test_a_model_that_nobody_asked_for() -> None:
    found = await World().why()

    assert found.state == "never"
    assert found.sentences == (
        "It is not in memory, and nobody asked for it lately. The next request for it loads it; so does: dmr run one",
    )


async def test_a_model_that_is_not_in_the_store() -> None:
    found = await World().why("nope")

    assert found.state == "absent"
    assert found.sentences == ("There is no model 'nope' in the store. Pull it with: dmr pull nope",)


async def test_a_model_that_was_removed_while_it_ran_is_still_known_by_its_name() -> None:
    found = await World(runners=[runner(OTHER, alias="nope")]).why("nope")

    assert found.state == "loaded"
    assert "no model 'nope' in the store" in found.sentences[0]
    assert "in memory on llama.cpp" in found.sentences[1]


async def test_a_model_whose_backend_is_missing() -> None:
    found = await World(unservable=BackendNotInstalledError("vllm", "install vLLM")).why()

    assert found.state == "unservable"
    assert found.sentences == ("It cannot be served: backend 'vllm' is not installed: install vLLM",)


async def test_a_model_in_memory_says_since_when_how_much_and_how_long_still() -> None:
    found = await World(runners=[runner()], capacity=Capacity(host=4 * GIB)).why()

    assert found.state == "loaded"
    assert found.sentences == (
        "It is in memory on llama.cpp, for completion, since 1 min 40 s, loaded as 'one'. Loading took 2.5 s.",
        "It uses 1.0 GiB; 2.0 GiB are set aside for it.",
        "Nobody has used it for 20 s. It is unloaded in 4 min 40 s (keep-alive 5m0s).",
        "All models together may have 4.0 GiB of memory (2.0 GiB are set aside).",
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"leases": 1, "idle_since": None}, "It is answering 1 request."),
        ({"leases": 3, "idle_since": None}, "It is answering 3 requests."),
        (
            {"keep_alive": KeepAlive.forever()},
            "Nobody has used it for 20 s. It stays until somebody unloads it (keep-alive -1).",
        ),
        (
            {"phase": Phase.RETIRING, "leases": 2, "idle_since": None},
            "It makes room once it has finished the 2 answers it is giving.",
        ),
        ({"footprint": None}, "2.0 GiB are set aside for it."),
        (
            {"footprint": Footprint(resident=GIB, device=GIB), "needs": Memory(GIB, 3 * GIB)},
            "It uses 1.0 GiB and 1.0 GiB of accelerator memory; 1.0 GiB and 3.0 GiB of accelerator memory are set aside for it.",
        ),
        (
            {"phase": Phase.LOADING, "since": NOW - 3},
            "It is being loaded on llama.cpp, for completion, as 'one', for 3.0 s so far; 2.0 GiB are set aside for it.",
        ),
    ],
)
async def test_each_condition_of_a_runner_has_its_sentence(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in (await World(runners=[runner(**fields)]).why()).sentences


async def test_who_waits_is_told_the_place_and_what_for() -> None:
    views = [
        WaitingView(key=KEY, alias="one", position=n, since=NOW - 7 + n, waits_for="a place; 1 of 1 are taken")
        for n in (2, 3)
    ]
    others = WaitingView(key=OTHER, alias="two", position=1, since=NOW - 9, waits_for="x")
    found = await World(waiting=[others, *views]).why()

    assert found.state == "waiting"
    assert found.waiting == tuple(views)
    assert list(found.sentences) == [
        "2 requests for it wait; the first is number 2 in the queue and has waited 5.0 s. It waits for a place; 1 of 1 are taken."
    ]


async def test_an_evicted_model_says_for_whom_and_by_which_figures() -> None:
    world = World()
    world.decided("ready", ago=100)
    world.decided("evicted", "to make room for 'two'", idle_seconds=12.0, freed_bytes=GIB, needed_bytes=2.0 * GIB)
    found = await world.why()

    assert found.state == "evicted"
    assert found.sentences == (
        "It was evicted 1 min ago: to make room for 'two' (idle 12 s, freed 1.0 GiB, needed 2.0 GiB).",
    )


@pytest.mark.parametrize(
    ("what", "why", "sentence"),
    [
        ("unloaded", "unload", "It was unloaded 1 min ago: somebody asked for that."),
        ("unloaded", "nobody used it", "It was unloaded 1 min ago: nobody used it."),
        ("refused", "it needs 9 GiB, and 4 GiB are there", "A request for it was refused 1 min ago: it needs 9 GiB,"),
        ("failed", "the file is damaged", "It failed 1 min ago: the file is damaged"),
    ],
)
async def test_how_it_ended_last(what: str, why: str, sentence: str) -> None:
    world = World()
    world.decided(what, why)
    found = await world.why()

    assert found.state == what
    assert found.sentences[0].startswith(sentence)


@pytest.mark.parametrize(
    ("failures", "retry_at", "sentence"),
    [
        (1, NOW, "It failed once, last 10 s ago: llama.cpp was killed by signal 6. The next request starts it again."),
        (
            5,
            NOW + 290,
            "It failed 5 times in a row, last 10 s ago: llama.cpp was killed by signal 6. It is not started again for 4 min 50 s.",
        ),
    ],
)
async def test_a_model_that_crashes_says_how_often_and_when_it_is_tried_again(
    failures: int, retry_at: float, sentence: str
) -> None:
    error = EngineExitedError("llama.cpp", -6, "tail")
    world = World(setbacks={KEY: Setback(failures=failures, error=error, at=NOW - 10, retry_at=retry_at)})
    world.decided("crashed")
    found = await world.why()

    assert found.state == "failing"
    assert found.sentences == (sentence,)


async def test_a_failure_that_was_overcome_is_history() -> None:
    error = EngineExitedError("llama.cpp", -6)
    world = World(runners=[runner()], setbacks={KEY: Setback(failures=1, error=error, at=NOW - 10, retry_at=NOW - 9)})
    world.decided("crashed")
    world.decided("ready")
    found = await world.why()

    assert found.state == "loaded"
    assert not [sentence for sentence in found.sentences if "failed" in sentence]
    assert [decision.what for decision in found.decisions] == ["crashed", "ready"]


async def test_a_mode_can_be_picked() -> None:
    embedding = attrs.evolve(KEY, mode=EngineMode.EMBEDDING)
    world = World(runners=[runner(), runner(embedding, id=2)])

    assert [EngineMode.COMPLETION, EngineMode.EMBEDDING] == [view.key.mode for view in (await world.why()).runners]
    assert [EngineMode.EMBEDDING] == [view.key.mode for view in (await world.why(mode=EngineMode.EMBEDDING)).runners]
    assert (await world.why(mode=EngineMode.RERANKING)).state == "never"


async def test_a_draft_model_says_whose() -> None:
    found = await World(runners=[runner(attrs.evolve(OTHER, draft_id=ID), alias="two")]).why()

    assert "It is in memory as the draft model of 'two'." in found.sentences


async def test_only_the_latest_decisions_are_shown() -> None:
    world = World()
    for number in range(30):
        world.decided("loading", f"n{number}")
        world.decided("loading", "of another", key=OTHER)
    decisions = (await world.why()).decisions

    assert [f"n{number}" for number in range(20, 30)] == [decision.why for decision in decisions]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.3, "12 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_figures_without_a_reason_and_those_that_are_nothing() -> None:
    made = Decision(
        at=0, key=KEY, alias="one", what="ready", numbers={"load_seconds": 1.5, "need_bytes": 0, "times": 3}
    )

    assert describe(made) == "load 1.5 s, times 3"
