"""Any schedule keeps the promises of scheduling. ``DMR_EXAMPLES`` says how many are tried."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.scheduling.machine import RulesMachine

TestRules = RulesMachine.TestCase
TestRules.settings = settings(
    max_examples=int(os.environ.get("DMR_EXAMPLES", "150")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
