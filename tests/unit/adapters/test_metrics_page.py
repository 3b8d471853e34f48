"""The page of figures: whom it asks, what it leaves out, and that the document lists it."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmr_adapters.metrics.exposition import Family, family
from dmr_adapters.metrics.page import MetricsPage
from dmr_adapters.metrics.prometheus import PrometheusMetrics
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.memory import Capacity, Footprint, Memory
from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Endpoint, UpstreamRequest
from dmr_core.services.scheduling.lease import RunnerView
from dmr_core.services.scheduling.state import Phase
from dmr_core.testing.fakes.transport import Answer, InMemoryTransport

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
PAGE = b"# HELP e_requests Requests.\n# TYPE e_requests gauge\ne_requests 3\n"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def runner(number: int, *, phase: Phase = Phase.READY, backend: str = "fake") -> RunnerView:
    """A runner named ``m<number>``, at an endpoint of its own."""
    return RunnerView(
        id=number,
        key=RunnerKey(backend, Digest.of(b"%d" % number), EngineMode.COMPLETION),
        alias=f"m{number}",
        phase=phase,
        leases=number,
        idle_since=None,
        keep_alive=KeepAlive(300.0),
        endpoint=None if phase is Phase.LOADING else endpoint(number),
        needs=Memory(1000, 10),
        footprint=Footprint(resident=900, device=9),
    )


def endpoint(number: int) -> Endpoint:
    return Endpoint(socket=Path(f"/in-memory/{number}.sock"))


def labels(number: int, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"backend": "fake", "model": f"m{number}", "mode": "completion", **more}.items())


@attrs.define
class World:
    """Some runners, and the page about them."""

    transport: InMemoryTransport = attrs.field(factory=InMemoryTransport)
    metrics: PrometheusMetrics = attrs.field(factory=lambda: PrometheusMetrics("1.2.3"))
    runners: list[RunnerView] = attrs.field(factory=list)
    deadline: float = 5.0
    page: MetricsPage = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.page = MetricsPage(
            metrics=self.metrics,
            transport=self.transport,
            runners=lambda: self.runners,
            capacity=lambda: Capacity(host=5000),
            metrics_path=lambda backend: "/metrics" if backend == "fake" else None,
            deadline=self.deadline,
        )

    def add(self, number: int, answer: Answer | None = None, **options: object) -> None:
        """A runner that answers so; ``None`` for one that never does."""

        async def handle(request: UpstreamRequest) -> Answer:
            assert (request.method, request.path) == ("GET", "/metrics")
            if answer is None:
                await asyncio.Event().wait()
            return answer or Answer()

        self.runners.append(runner(number, **options))  # type: ignore[arg-type]  # options of runner()
        self.transport.serve(endpoint(number), handle)

    async def series(self) -> Series:
        """Every figure of the page."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for entry in text_string_to_metric_families(await self.page.render())
            for sample in entry.samples
        }


async def test_without_runners_the_page_has_the_service_alone() -> None:
    text = await World().page.render()

    assert text.endswith("# No active runners\n")
    assert 'dmr_build_info{version="1.2.3"} 1.0\n' in text
    assert "# TYPE dmr_loads_total counter\n" in text
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)
    assert "_created" not in text


async def test_a_runner_that_is_still_loading_is_not_asked() -> None:
    world = World()
    world.runners.append(runner(1, phase=Phase.LOADING))

    assert (await world.page.render()).endswith("# No active runners\n")
    assert world.transport.requests == []


async def test_every_figure_of_every_runner_carries_its_labels() -> None:
    world = World()
    for number in (1, 2, 3):
        world.add(number, Answer(body=PAGE))
    found = await world.series()

    for number in (1, 2, 3):
        assert found["e_requests", labels(number)] == 3
        assert found["dmr_runner_requests", labels(number)] == number
        assert found["dmr_runner_memory_bytes", labels(number, kind="host")] == 900
        assert found["dmr_runner_memory_bytes", labels(number, kind="device")] == 9
        assert found["dmr_scrape_up", labels(number)] == 1
        assert found["dmr_scrape_errors_total", labels(number)] == 0
    assert found["dmr_memory_reserved_bytes", frozenset({("kind", "host")})] == 3000
    assert found["dmr_memory_capacity_bytes", frozenset({("kind", "host")})] == 5000
    assert ("dmr_memory_capacity_bytes", frozenset({("kind", "device")})) not in found
    assert "# No active runners" not in await world.page.render()


async def test_one_that_hangs_is_left_out_and_the_others_are_not_delayed() -> None:
    world = World(deadline=0.05)
    for number, answer in ((1, Answer(body=PAGE)), (2, None), (3, Answer(body=PAGE))):
        world.add(number, answer)
    began = time.monotonic()
    await world.series()
    found = await world.series()

    assert time.monotonic() - began < 2.0
    assert [3, None, 3] == [found.get(("e_requests", labels(number))) for number in (1, 2, 3)]
    assert [1, 0, 1] == [found["dmr_scrape_up", labels(number)] for number in (1, 2, 3)]
    assert [0, 2, 0] == [found["dmr_scrape_errors_total", labels(number)] for number in (1, 2, 3)]
    assert world.transport.open_responses == set()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(501, body=b"e_requests 1\n"),
        Answer(body=b""),
        Answer(body=b"<html>nothing here</html>"),
        Answer(body=b"dmr_loads_total 1\n"),
        Answer(body=b"e_requests 1\n" * 10_001),
        Answer(body=b"e_requests 1 " + b" " * 1024 * 1024),
        Answer(body=b"\xff\x00\xfe" * 100),
    ],
    ids=["error", "empty", "page", "forged", "many", "long", "binary"],
)
async def test_one_that_talks_nonsense_is_left_out(answer: Answer) -> None:
    world = World()
    world.add(1, answer)
    found = await world.series()

    assert found["dmr_scrape_up", labels(1)] == 0
    assert not [name for name, _ in found if name.startswith("e_") or name == "dmr_loads_total"]
    assert world.transport.open_responses == set()


async def test_one_that_cannot_be_reached_or_breaks_off_is_left_out() -> None:
    world = World()
    world.runners.append(runner(1))

    async def broken(_request: UpstreamRequest) -> Answer:
        raise UpstreamError("broke off")

    world.runners.append(runner(2))
    world.transport.serve(endpoint(2), broken)
    found = await world.series()

    assert [0, 0] == [found["dmr_scrape_up", labels(number)] for number in (1, 2)]


async def test_a_backend_without_figures_is_not_asked() -> None:
    world = World()
    world.add(1, Answer(body=PAGE), backend="silent")
    found = await world.series()

    assert world.transport.requests == []
    assert not [name for name, _ in found if name.startswith("dmr_scrape")]


async def test_what_is_gone_is_forgotten() -> None:
    """Or there would be a figure for every model that ever ran."""
    world = World()
    world.add(1, Answer(500))
    await world.series()
    world.runners.clear()
    await world.series()
    world.add(1, Answer(500))

    assert (await world.series())["dmr_scrape_errors_total", labels(1)] == 1


async def test_figures_of_engines_join_the_services_of_the_same_name() -> None:
    world = World()
    world.add(1, Answer(body=b"# TYPE process_open_fds gauge\nprocess_open_fds 5\n"))
    text = await world.page.render()

    assert text.count("# TYPE process_open_fds gauge\n") == 1
    assert (await world.series())["process_open_fds", labels(1)] == 5


async def test_pages_are_read_one_at_a_time_and_what_has_no_turn_in_time_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, most = 0, 0

    def read(_page: bytes, its: dict[str, str]) -> list[Family]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        time.sleep(0.2)
        reading -= 1
        return [family("e_requests", "gauge", "", [(its, 3.0)])]

    monkeypatch.setattr("dmr_adapters.metrics.page._read", read)
    world = World(deadline=0.5)
    for number in range(8):
        world.add(number, Answer(body=PAGE))
    began = time.monotonic()
    found = await world.series()

    assert time.monotonic() - began < 1.5
    assert most == 1
    shown = [number for number in range(8) if ("e_requests", labels(number)) in found]
    assert 1 <= len(shown) <= 4
    for number in range(8):
        assert found["dmr_scrape_up", labels(number)] == (number in shown)
        assert found["dmr_scrape_errors_total", labels(number)] == (number not in shown)


async def test_of_many_long_pages_some_are_shown_in_time() -> None:
    many = ",".join(f'label{number}="value"' for number in range(60))
    page = b"".join(b"e_%d{%s} 1\n" % (number, many.encode()) for number in range(1000))
    assert 900_000 < len(page) < 1024 * 1024
    world = World(deadline=0.5)
    for number in range(8):
        world.add(number, Answer(body=page))
    began = time.monotonic()
    text = await world.page.render()

    assert time.monotonic() - began < 2.0  # half of it on a machine that does nothing else
    assert text.count("dmr_scrape_up{") == 8
    assert re.search(r"^dmr_scrape_up{.*} 1\.0$", text, re.MULTILINE)


async def test_an_eviction_counts_as_one_and_as_an_unload() -> None:
    world = World()
    world.metrics.unload(backend="fake", reason="evicted")
    world.metrics.unload(backend="fake", reason="idle")
    found = await world.series()

    assert found["dmr_evictions_total", frozenset({("backend", "fake")})] == 1
    assert found["dmr_unloads_total", frozenset({("backend", "fake"), ("reason", "evicted")})] == 1


async def test_the_document_lists_exactly_what_is_on_the_page() -> None:
    """Names, types and labels."""
    world = World()
    world.add(1, Answer(body=PAGE))
    metrics = world.metrics
    metrics.request(backend="fake", mode="completion", status=200, seconds=1.0)
    metrics.load(backend="fake", outcome="ready", seconds=1.0)
    metrics.unload(backend="fake", reason="evicted")
    metrics.runners(backend="fake", change=1)
    metrics.streamed(backend="fake", mode="completion", first=0.1, gap=0.01)
    metrics.waited(backend="fake", outcome="granted", seconds=0.1)
    metrics.waiting(change=1)
    metrics.pulled(outcome="completed", received=1, seconds=1.0)
    text = await world.page.render()
    shown: dict[str, tuple[str, set[str]]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        lines = re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? \S+$", text, re.MULTILINE)
        assert lines, f"{name} has no series"
        shown[name] = kind, {label for line in lines for label in re.findall(r'(\w+)="', line)} - {"le"}
    del shown["e_requests"]

    table = DOCUMENT.read_text().partition("## The engines")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", table, re.MULTILINE)
    assert shown == {name: (kind, set(re.findall(r"`(\w+)`", row))) for name, kind, row in rows}
