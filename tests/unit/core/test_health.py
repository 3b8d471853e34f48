"""What makes the service ready."""

from __future__ import annotations

import asyncio

import pytest

from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.services.backends import BackendService
from dmr_core.services.health import HealthService, backend_check


async def fine() -> str:
    return ""


async def test_ready_means_that_nothing_is_wrong() -> None:
    health = HealthService({"a": fine, "b": fine})

    assert await health.problems() == {}
    assert health.names == ("a", "b")


async def test_every_check_that_fails_is_named() -> None:
    async def full() -> str:
        return "the disk is full"

    async def buggy() -> str:
        raise OSError("no such device")

    health = HealthService({"a": fine, "b": full, "c": buggy})

    assert await health.problems() == {"b": "the disk is full", "c": "OSError: no such device"}


async def test_a_check_that_hangs_fails_and_is_not_started_again() -> None:
    started = 0
    going_on = asyncio.Event()

    async def hangs() -> str:
        nonlocal started
        started += 1
        await going_on.wait()
        return ""

    health = HealthService({"a": fine, "disk": hangs}, timeout=0.01)
    for _ in range(3):
        assert await health.problems() == {"disk": "no answer within 0.01 s"}
    assert started == 1

    going_on.set()
    await asyncio.sleep(0)
    assert await health.problems() == {}
    await health.aclose()


async def test_closing_ends_a_check_that_hangs() -> None:
    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    health = HealthService({"disk": hangs}, timeout=0.01)
    await health.problems()
    await health.aclose()


async def test_a_service_that_winds_down_is_not_ready() -> None:
    health = HealthService({"a": fine})
    health.stop()

    assert await health.problems() == {"service": "it is shutting down"}


class Statuses(BackendService):
    """Backends of which only the statuses are known."""

    def __init__(self, **statuses: BackendStatus) -> None:
        super().__init__({})
        self._known = {name.replace("_", "."): status for name, status in statuses.items()}

    async def statuses(self) -> dict[str, BackendStatus]:
        return self._known


RUNNING = BackendStatus(BackendState.RUNNING, "v1")
MISSING = BackendStatus(BackendState.NOT_INSTALLED, "install it")


@pytest.mark.parametrize(
    ("backends", "problem"),
    [
        (Statuses(llama_cpp=RUNNING, vllm=MISSING), ""),
        (Statuses(llama_cpp=MISSING, vllm=RUNNING), "llama.cpp: Not Installed: install it"),
        (Statuses(other=RUNNING), ""),
        (Statuses(other=MISSING), "other: Not Installed: install it"),
        (Statuses(), "there is no backend: see `dmr plugins`"),
    ],
)
async def test_the_default_backend_must_be_usable(backends: Statuses, problem: str) -> None:
    assert await backend_check(backends)() == problem
