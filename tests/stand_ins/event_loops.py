"""Running a test on both event loops: mark it with ``BOTH_LOOPS``."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

__all__ = ["BOTH_LOOPS", "pytest_asyncio_loop_factories"]

_FACTORIES: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=list(_FACTORIES))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Only a test that asks for several loops gets them (see pytest-asyncio)."""
    marker = item.get_closest_marker("asyncio")
    wanted = marker.kwargs.get("loop_factories") if marker else None
    return {name: _FACTORIES[name] for name in wanted or ["asyncio"]}
