"""What accelerators have free, measured again whenever none of our engines is on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dmr_adapters.memory import probe as module
from dmr_adapters.memory.probe import MachineMemoryProbe
from dmr_core.domain.gpu import Detection, GpuDevice

GIB = 1 << 30


class Accelerators:
    """Two cards of 80 GiB; ``free`` of each, ``None`` while our engines are there."""

    def __init__(self, free: int | None = 70) -> None:
        self.free = free
        self.looks = 0
        self.now = 1000.0
        self.silent = False

    def seen(self) -> tuple[Detection, ...]:
        free = (self.free or 0) * GIB
        cards = tuple(
            GpuDevice(index=index, name="card", memory_total=80 * GIB, memory_free=free) for index in range(2)
        )
        return (Detection(variant="cuda", devices=cards),)

    async def look(self) -> tuple[Detection, ...] | None:
        self.looks += 1
        if self.silent:
            await asyncio.Event().wait()
        return None if self.free is None else self.seen()


def probe(root: Path, accelerators: Accelerators, first: tuple[Detection, ...] | None = None) -> MachineMemoryProbe:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal: 64 kB\nMemAvailable: 32 kB\n")
    detections = accelerators.seen() if first is None else first
    return MachineMemoryProbe(_no_engines, detections, root, look=accelerators.look, now=lambda: accelerators.now)


async def _no_engines() -> None:
    return None


async def free(probe: MachineMemoryProbe, accelerators: Accelerators) -> float | None:
    """GiB, when what was seen last is no longer fresh."""
    accelerators.now += 2
    found = await probe.read()
    assert found is not None
    return None if found.device_available is None else found.device_available / GIB


async def test_what_others_take_while_we_are_idle_is_gone(tmp_path: Path) -> None:
    accelerators = Accelerators()
    watched = probe(tmp_path, accelerators)
    assert 140 == await free(watched, accelerators)
    accelerators.free = 30
    assert 60 == await free(watched, accelerators)
    accelerators.free = 75
    assert 150 == await free(watched, accelerators)


async def test_what_was_seen_just_now_needs_no_other_look(tmp_path: Path) -> None:
    accelerators = Accelerators()
    watched = probe(tmp_path, accelerators)
    for _ in range(3):
        await watched.read()
    assert 0 == accelerators.looks
    await free(watched, accelerators)
    await watched.read()
    assert 1 == accelerators.looks


async def test_what_our_engines_hold_is_not_taken_from_them(tmp_path: Path) -> None:
    accelerators = Accelerators()
    watched = probe(tmp_path, accelerators)
    accelerators.free = None
    assert 140 == await free(watched, accelerators)


async def test_what_a_driver_releases_late_is_not_taken_for_others(tmp_path: Path) -> None:
    accelerators = Accelerators(free=70)
    watched = probe(tmp_path, accelerators)
    accelerators.free = None
    await free(watched, accelerators)
    accelerators.free = 10
    accelerators.now += 12
    assert 140 == await free(watched, accelerators)
    assert 20 == await free(watched, accelerators)


async def test_a_look_that_takes_too_long_leaves_what_was_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    accelerators = Accelerators()
    watched = probe(tmp_path, accelerators)
    accelerators.silent = True
    assert 140 == await free(watched, accelerators)


async def test_an_accelerator_that_does_not_answer_any_more_leaves_what_was_known(tmp_path: Path) -> None:
    accelerators = Accelerators()
    watched = probe(tmp_path, accelerators)

    async def gone() -> tuple[Detection, ...]:
        return (Detection(variant="cuda", detail="gone."),)

    watched._look = gone
    assert 140 == await free(watched, accelerators)


async def test_where_there_was_no_accelerator_nobody_looks_again(tmp_path: Path) -> None:
    accelerators = Accelerators()
    assert await free(probe(tmp_path, accelerators, ()), accelerators) is None
    assert 0 == accelerators.looks
