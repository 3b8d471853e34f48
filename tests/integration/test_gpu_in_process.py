"""What detectors of a plugin see reaches the service: at its start, and again before a model is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from dmr_adapters.memory import probe
from dmr_cli.server import bootstrap
from dmr_cli.server.bootstrap import Overrides, open_service
from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.domain.settings import Settings
from dmr_core.hookspecs import hookimpl
from dmr_core.ports.backend import DetectorSpec
from dmr_core.services.memory import MemoryService
from tests.asgi_client import call

GIB = 1 << 30


class Card:
    """A plugin of one accelerator, other programs on which take ever more of it; a detector of itself."""

    def __init__(self) -> None:
        self.free = 70 * GIB
        self.looks = 0

    @hookimpl
    def dmr_gpu_detectors(self) -> Iterable[DetectorSpec]:
        return [DetectorSpec(variant="cuda", summary="Cards", priority=40, factory=lambda: self)]

    async def detect(self) -> Detection:
        self.looks += 1
        device = GpuDevice(
            index=0, name="card", memory_total=80 * GIB, memory_free=self.free, uuid="GPU-1", architecture="9.0"
        )
        return Detection(variant="cuda", devices=(device,), detail="It is warm.")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    module = ModuleType("dmr_test_card")
    found = Card()
    module.__dict__["plugin"] = found
    monkeypatch.setitem(sys.modules, "dmr_test_card", module)
    monkeypatch.setattr(probe, "_FRESH", 0.0)
    return found


async def test_what_is_free_on_an_accelerator_is_measured_again(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[MemoryService] = []

    def make(*arguments: object) -> MemoryService:
        made.append(MemoryService(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(bootstrap, "MemoryService", make)
    point = EntryPoint(name="gpu-card", value="dmr_test_card:plugin", group="dmr")
    async with open_service(Settings(models_path=tmp_path), Overrides(entry_points=(point,))) as service:
        (memory,) = made
        assert 70 * GIB == (await memory.capacity()).device
        card.free = 30 * GIB
        assert 30 * GIB == (await memory.capacity()).device

        answer = (await call(service.app, "GET", "/dmr/v1/plugins")).json()
        (detection,) = answer["detections"]
        assert ("cuda", "It is warm.") == (detection["variant"], detection["detail"])
        assert {"uuid": "GPU-1", "architecture": "9.0", "memory_total": 80 * GIB, "memory_free": 70 * GIB}.items() <= (
            detection["devices"][0].items()
        ), json.dumps(answer)
