"""Schedules of the rules' machine, carried out with real engines. ``DMR_REAL_EXAMPLES`` says how many."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.scheduling.machine import ScheduleMachine
from tests.scheduling.real_world import RealWorld, install_engines

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@cache
def _programs() -> dict[str, Path]:
    return install_engines(Path(tempfile.mkdtemp(prefix="dmr-engines-")))


class RealMachine(ScheduleMachine):
    """The schedules, with child processes."""

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.world = RealWorld(slots, _programs())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            super().teardown()


TestRealSchedules = RealMachine.TestCase
TestRealSchedules.settings = settings(
    max_examples=int(os.environ.get("DMR_REAL_EXAMPLES", "8")),
    stateful_step_count=16,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink with real processes takes for ever
    suppress_health_check=list(HealthCheck),
)
