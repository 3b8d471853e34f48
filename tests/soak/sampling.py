"""Figures of the daemon over the time of a soak, and what is made of them."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from tests.soak import proc
from tests.soak.client import Client
from tests.soak.ledger import Ledger
from tests.soak.service import SLOTS

__all__ = ["Idle", "Sample", "Sampler", "idle", "slope", "window"]

_EVERY: Final = 1.0
_GAUGE: Final = re.compile(rb"^dmr_asyncio_tasks(?:\{\})? ([0-9.e+]+)$", re.MULTILINE)
_LOOKS: Final = 3
_BETWEEN_LOOKS: Final = 0.7


@attrs.frozen
class Sample:
    """One look at the daemon, ``at`` seconds after the traffic began; memory in KiB."""

    at: float
    rss: int
    pss: int
    fds: int
    threads: int
    engines: int


@attrs.frozen
class Idle:
    """The daemon with nothing to do and no engine: ``tasks`` is ``None`` where it does not tell.

    ``kinds`` says what the descriptors are.
    """

    rss: int
    pss: int
    fds: int
    threads: int
    tasks: int | None
    engines: int
    kinds: Counter[str]


@attrs.define
class Sampler:
    """Looks once a second. ``seen`` is every process that was ever seen below the daemon, with its start time."""

    pid: int
    ledger: Ledger
    samples: list[Sample] = attrs.field(factory=list)
    seen: dict[int, int] = attrs.field(factory=dict)

    async def run(self, began: float, until: float) -> None:
        """Sample until then, or until the daemon is gone."""
        while time.monotonic() < until:
            try:
                self._look(time.monotonic() - began)
            except OSError:
                self.ledger.fault(f"the daemon was gone {time.monotonic() - began:.0f} s after the beginning")
                return
            await asyncio.sleep(_EVERY)

    def _look(self, at: float) -> None:
        figures, engines = proc.figures(self.pid), proc.engines(self.pid)
        self.seen |= proc.descendants(self.pid)
        if len(engines) > SLOTS:
            there = ", ".join(f"{engine.backend}/{engine.model}" for engine in engines)
            self.ledger.fault(f"{len(engines)} engines for {SLOTS} places after {at:.0f} s: {there}")
        self.samples.append(Sample(at, figures.rss, figures.pss, figures.fds, figures.threads, len(engines)))


async def idle(pid: int, client: Client, *, limit: float, wanted: Idle | None = None) -> Idle:
    """The daemon's figures once they are the same for a while, and no higher than ``wanted``; else the last ones."""
    deadline = time.monotonic() + limit
    last: list[Idle] = []
    while True:
        await asyncio.sleep(_BETWEEN_LOOKS)
        now = await _idle(pid, client)
        last = [*last[1 - _LOOKS :], now]
        steady = len(last) == _LOOKS and len({(look.fds, look.tasks, look.engines) for look in last}) == 1
        low = wanted is None or (now.fds <= wanted.fds and (now.tasks or 0) <= (wanted.tasks or 0))
        if (steady and low and not now.engines) or time.monotonic() > deadline:
            return now


async def _idle(pid: int, client: Client) -> Idle:
    answer = await client.ask("GET", "/metrics")
    found = _GAUGE.search(answer.body)
    await asyncio.sleep(0.1)  # the connection of the question is closed by now
    figures = proc.figures(pid)
    return Idle(
        rss=figures.rss,
        pss=figures.pss,
        fds=figures.fds,
        threads=figures.threads,
        tasks=round(float(found[1])) if found else None,
        engines=len(proc.children(pid)),
        kinds=proc.descriptors(pid),
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By how much the values grow per hour, by least squares; times in seconds. 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    at, values = zip(*points, strict=True)
    return statistics.linear_regression(at, values).slope * 3600.0


def window(samples: Sequence[Sample], duration: float, begin: float, end: float) -> list[Sample]:
    """The samples between two shares of the duration."""
    return [sample for sample in samples if begin * duration <= sample.at <= end * duration]
