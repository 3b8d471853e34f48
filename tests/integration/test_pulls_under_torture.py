"""Pulls from a registry that does everything wrong: the right bytes or a clear error, in time, and no secret told."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from dmr_adapters.clock import SystemClock
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.journal import PartsJournal
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.client import Timeouts
from dmr_adapters.registry.credentials import CredentialStore, Login, Secret
from dmr_adapters.registry.oci import OciRegistry
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.errors import DmrError
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.services.pulling import PullingService
from dmr_core.testing.contracts.registry import sample
from tests.stand_ins.raw_registry import Fault, RawRegistry, raw_registry

_MIB: Final = 1024 * 1024
_LARGE: Final = sample(random.Random(1).randbytes(5 * _MIB + 777))
_TINY: Final = sample(b"GGUF" + bytes(range(200)))
_SHORT: Final = Timeouts(connect=2, head=0.4, stall=0.3, document=1.0)
_WATCHDOG: Final = 30.0
_PARTS: Final = FetchLimits(
    smallest_part=_MIB, largest_part=5 * _MIB, at_first=3, per_host=4, slow_window=0.5, slow_bytes=4096, silence=0.45
)
_ALONE: Final = attrs.evolve(_PARTS, smallest_part=16 * _MIB, largest_part=16 * _MIB, at_first=1)


class _Impatient(SystemClock):
    """Does not wait between attempts; measures as the real one does."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class _Secretive(CredentialStore):
    async def find(self, registry: str) -> Secret | None:
        return Login("user", "the-secret-of-the-registry")


@attrs.frozen
class _World:
    server: RawRegistry
    store: FilesystemModelStore
    root: Path
    pulling: PullingService

    async def pull(self) -> Exception | None:
        """Pull; the error, if there was one."""
        try:
            async with asyncio.timeout(_WATCHDOG):
                async for _ in await self.pulling.pull(str(self.server.reference)):
                    pass
        except DmrError as exc:
            return exc
        return None

    async def check(self, error: Exception | None) -> None:
        """Whatever happened, nothing wrong is visible and nothing was told."""
        for model in self.store.models():
            for blob in model.manifest.blobs:
                content = b"".join([chunk async for chunk in self.store.read_blob(blob.digest)])
                assert Digest.of(content) == blob.digest
        assert bool(self.store.models()) == (error is None)
        # A token server is the one party besides its registry that a login goes to.
        others = [head.lower() for head in self.server.elsewhere if "/token" not in head]
        assert not any("authorization" in head or "cookie" in head for head in others)

    async def mend(self) -> None:
        """An honest registry finishes what is here."""
        self.server.faults = iter(())
        before, here, whole = self.server.sent, self._here(), bool(self.store.models())
        assert await self.pull() is None
        await self.check(None)
        missing = 0 if whole else len(self.server.model.layer) - here
        if Fault.FLIPPED not in self.server.met:  # what was wrong has to come again
            assert self.server.sent - before == missing

    def _here(self) -> int:
        layer = self.server.model.artifact.manifest.layers[0]
        partial = self.root / ".dmr" / "ingest" / layer.digest.hex
        recorded = PartsJournal(partial.with_suffix(".parts"), layer.size).read()
        if recorded is not None:
            return recorded.count
        return partial.stat().st_size if partial.exists() else 0


async def _world(server: RawRegistry, root: Path, limits: FetchLimits) -> tuple[_World, OciRegistry]:
    clock = _Impatient()
    store = await FilesystemModelStore.open(root)
    registry = OciRegistry(
        clock=clock,
        decode_manifest=decode_manifest,
        decode_config=decode_config,
        timeouts=_SHORT,
        credentials=_Secretive(),
    )
    pulling = PullingService(
        store=store,
        registry=registry,
        policy=ReferencePolicy(),
        clock=clock,
        fetching=FetchingService(store=store, clock=clock, limits=limits),
    )
    return _World(server, store, root, pulling), registry


@pytest.fixture(params=[_PARTS, pytest.param(_ALONE, marks=pytest.mark.slow)], ids=["in parts", "alone"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[_World]:
    async with raw_registry(_LARGE) as server:
        found, registry = await _world(server, tmp_path / "models", request.param)
        yield found
        await registry.aclose()


_PLACES: Final = {"manifest": 0, "config": 1, "layer": 2, "second part": 3}
_SLOW: Final = [pytest.param(place, marks=pytest.mark.slow) for place in ("manifest", "config", "second part")]


@pytest.mark.parametrize("place", ["layer", *_SLOW])
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE], ids=str)
async def test_a_fault_ends_in_the_right_bytes_or_a_clear_error(world: _World, fault: Fault, place: str) -> None:
    world.server.faults = iter([Fault.NONE] * _PLACES[place] + [fault])
    error = await world.pull()
    await world.check(error)
    await world.mend()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE], ids=str)
async def test_a_fault_that_does_not_pass_ends_too(world: _World, fault: Fault) -> None:
    world.server.faults = itertools.chain([Fault.NONE] * 2, itertools.repeat(fault))
    error = await world.pull()
    await world.check(error)
    await world.mend()


@pytest.mark.parametrize("seed", range(15))
async def test_faults_in_any_order(tmp_path: Path, seed: int) -> None:
    await _torture(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(start, start + 15) for start in range(1000, 1300, 15)], ids=str)
async def test_faults_in_any_order_at_length(tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        await _torture(tmp_path / str(seed), seed)


async def test_a_connection_may_break_at_every_byte(tmp_path: Path) -> None:
    """Resets and ends of a small blob after each of its bytes."""
    async with raw_registry(_TINY) as server:
        for number, fault in itertools.product(range(len(_TINY.layer)), (Fault.RESET_IN_BODY, Fault.END_IN_BODY)):
            world, registry = await _world(server, tmp_path / f"{number}{fault.name}", _PARTS)
            server.cut = lambda length, number=number: min(number, length)  # type: ignore[misc]
            server.faults = iter([Fault.NONE, Fault.NONE, fault])
            assert await world.pull() is None
            await world.check(None)
            await registry.aclose()


async def _torture(root: Path, seed: int) -> None:
    chance = random.Random(seed)
    tasks, threads, descriptors = len(asyncio.all_tasks()), threading.active_count(), _descriptors()
    async with raw_registry(_LARGE) as server:
        server.faults = _plan(chance)
        server.cut = lambda length: chance.randrange(length + 1)
        world, registry = await _world(server, root, chance.choice([_PARTS, _ALONE]))
        for _ in range(chance.randrange(1, 4)):
            error = await world.pull()
            await world.check(error)
            if error is None:
                break
        if error is not None:
            await world.mend()
        await registry.aclose()
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() <= threads + 6  # those of the loop's own pool
    assert _descriptors() <= descriptors


def _plan(chance: random.Random) -> Iterator[Fault]:
    share = chance.choice([0.1, 0.3, 0.7])
    while True:
        yield chance.choice(list(Fault)) if chance.random() < share else Fault.NONE


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
