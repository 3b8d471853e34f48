"""The page of ``/metrics``: the service's own figures, and those of every engine that runs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final, TypeAlias

import attrs

from dmr_adapters.metrics.exposition import Family, family, merge, parse, relabel
from dmr_core.domain.memory import Capacity
from dmr_core.errors import DmrError
from dmr_core.ports.metrics import Metrics
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest
from dmr_core.services.scheduling.lease import RunnerView
from dmr_core.services.scheduling.state import Phase

__all__ = ["CONTENT_TYPE", "MetricsPage"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NO_RUNNERS: Final = "# No active runners\n"

_log: Final = logging.getLogger("dmr.metrics")
_DEADLINE: Final = 0.5
"""Seconds within which an engine's answer must be there, and its turn to be read have come.

What has been read takes less than half as long again to be written, so the whole page takes less than one second.
"""

_MOST_BYTES: Final = 1024 * 1024
_OURS: Final = "dmr_"
_READY: Final = frozenset({Phase.READY, Phase.RETIRING})

_Who: TypeAlias = tuple[str, str, str]
_LABELS: Final = ("backend", "model", "mode")


@attrs.frozen
class _Answer:
    """What one runner said; ``families`` is ``None`` where it said nothing that can be used."""

    who: _Who
    families: list[Family] | None


class MetricsPage:
    """Collects the page anew for whoever asks."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        transport: Transport,
        runners: Callable[[], Iterable[RunnerView]],
        capacity: Callable[[], Capacity],
        metrics_path: Callable[[str], str | None],
        deadline: float = _DEADLINE,
    ) -> None:
        """``metrics_path`` tells where engines of a backend have their figures; ``deadline`` is in seconds."""
        self._metrics = metrics
        self._transport = transport
        self._runners = runners
        self._capacity = capacity
        self._metrics_path = metrics_path
        self._deadline = deadline
        self._errors: Counter[_Who] = Counter()
        self._reading = asyncio.Lock()

    async def render(self) -> str:
        """The page. An engine that is slow, or talks nonsense, is left out and counted."""
        views = tuple(self._runners())
        sources = self._sources(views)
        answers = await asyncio.gather(*(self._ask(who, *where) for who, where in sources.items()))
        self._count(answers)
        live = [_of_tasks(), *_of_runners(views, self._capacity()), *self._of_scrapes(answers)]
        pages = [live, *(answer.families for answer in answers if answer.families is not None)]
        # Off the loop: a page of many engines is some milliseconds of work.
        text = await asyncio.to_thread(self._put_together, pages)
        return text if any(view.phase in _READY for view in views) else text + NO_RUNNERS

    def _put_together(self, pages: list[list[Family]]) -> str:
        content, _ = self._metrics.render()
        own = parse(content.decode("utf-8", "replace"), limit=1_000_000).values()
        # When a counter was made is of use in another format alone.
        return merge([[entry for entry in own if not _is_creation(entry.name)], *pages])

    def _sources(self, views: Iterable[RunnerView]) -> dict[_Who, tuple[Endpoint, str]]:
        """Where to ask, by the labels of the answer, of which no two runners may have the same."""
        sources: dict[_Who, tuple[Endpoint, str]] = {}
        for view in views:
            path = self._metrics_path(view.key.backend)
            if path is not None and view.endpoint is not None and view.phase in _READY:
                sources.setdefault(_who(view), (view.endpoint, path))
        return sources

    async def _ask(self, who: _Who, endpoint: Endpoint, path: str) -> _Answer:
        try:
            async with asyncio.timeout(self._deadline) as limit:
                page = await self._fetch(endpoint, path)
                # One at a time: read at once, eight long pages would all be too late, and the loop would wait for
                # eight threads. A page is a tenth of a second's work at most, so what is begun is finished.
                async with self._reading:
                    limit.reschedule(None)
                    families = await asyncio.to_thread(_read, page, dict(zip(_LABELS, who, strict=True)))
        except TimeoutError:
            _log.debug("no figures of %s within %g s", who, self._deadline)
        except (DmrError, ValueError) as exc:
            _log.debug("no figures of %s: %s", who, exc)
        else:
            return _Answer(who, families)
        return _Answer(who, None)

    async def _fetch(self, endpoint: Endpoint, path: str) -> bytes:
        request = UpstreamRequest("GET", path, ((b"host", b"localhost"), (b"accept", CONTENT_TYPE.encode())))
        async with aclosing(await self._transport.send(endpoint, request)) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            page = bytearray()
            while piece := await response.read():
                page += piece
                if len(page) > _MOST_BYTES:
                    raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        return bytes(page)

    def _count(self, answers: Iterable[_Answer]) -> None:
        """Count who did not answer; what is gone is forgotten, so that there are never more figures than runners."""
        self._errors = Counter({answer.who: self._errors[answer.who] for answer in answers})
        self._errors.update(answer.who for answer in answers if answer.families is None)

    def _of_scrapes(self, answers: Iterable[_Answer]) -> list[Family]:
        up = [(dict(zip(_LABELS, a.who, strict=True)), float(a.families is not None)) for a in answers]
        errors = [(dict(zip(_LABELS, a.who, strict=True)), float(self._errors[a.who])) for a in answers]
        return [
            family("dmr_scrape_up", "gauge", "Whether a runner's own figures are on this page.", up),
            family(
                "dmr_scrape_errors_total", "counter", "Times a runner's own figures could not be had in time.", errors
            ),
        ]


def _who(view: RunnerView) -> _Who:
    return view.key.backend, view.alias, view.key.mode.value


def _read(page: bytes, labels: dict[str, str]) -> list[Family]:
    found = relabel(parse(page.decode("utf-8", "replace")).values(), labels, reserved=_OURS)
    if not found:
        raise ValueError("there is no figure in its answer")
    return found


def _is_creation(name: str) -> bool:
    return name.startswith(_OURS) and name.endswith("_created")


def _of_tasks() -> Family:
    """Taken here, as only the loop's own thread can count them."""
    tasks = float(len(asyncio.all_tasks()))
    return family("dmr_asyncio_tasks", "gauge", "Tasks the service has, this page's among them.", [({}, tasks)])


def _of_runners(views: Iterable[RunnerView], capacity: Capacity) -> list[Family]:
    """What can be read off the runners at any time, and so needs no counting."""
    requests, used = [], []
    reserved = dict.fromkeys(("host", "device"), 0)
    for view in views:
        labels = dict(zip(_LABELS, _who(view), strict=True))
        requests.append((labels, float(view.leases)))
        reserved["host"] += view.needs.host
        reserved["device"] += view.needs.device
        if view.footprint is not None:
            used.append(({**labels, "kind": "host"}, float(view.footprint.resident)))
            used.append(({**labels, "kind": "device"}, float(view.footprint.device)))
    limits = {"host": capacity.host, "device": capacity.device}
    return [
        family("dmr_runner_requests", "gauge", "Requests a runner is answering.", requests),
        family("dmr_runner_memory_bytes", "gauge", "Memory a runner was last seen to use.", used),
        family(
            "dmr_memory_reserved_bytes",
            "gauge",
            "Memory that is set aside for all runners.",
            [({"kind": kind}, float(size)) for kind, size in reserved.items()],
        ),
        family(
            "dmr_memory_capacity_bytes",
            "gauge",
            "Memory all runners together may have, as far as it is known and limited.",
            [({"kind": kind}, float(size)) for kind, size in limits.items() if size is not None],
        ),
    ]
