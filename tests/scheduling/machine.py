"""Schedules of everything that happens to a model runner, drawn by hypothesis and carried out in a world."""

from __future__ import annotations

import math
from typing import Final, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dmr_core.domain.digest import Digest
from dmr_core.domain.memory import Capacity, Memory
from dmr_core.services.scheduling import events
from dmr_core.services.scheduling.state import Limits
from tests.scheduling.behaviours import BEHAVIOURS
from tests.scheduling.simulation import Simulation, key_of

__all__ = ["MODELS", "RulesMachine", "ScheduleMachine", "World"]

MODELS: Final = "abcde"
_GIB: Final = 1 << 30


class World(Protocol):
    """Where a schedule is carried out."""

    def ask(
        self,
        demand: int,
        alias: str,
        *,
        keep_alive: float,
        needs: Memory,
        concurrency: int | None,
        wait: float | None,
        answer: float | None,
    ) -> None:
        """Make a demand."""

    def leave(self, demand: int) -> None:
        """Cancel one, wherever it is."""

    def finish(self, demand: int) -> None:
        """Complete an answer."""

    def crash(self, model: str) -> None:
        """Kill an engine that serves."""

    def unload(self, model: str) -> None:
        """Unload a model."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""

    def close(self) -> None:
        """Shut down, and check that nothing is left."""


class ScheduleMachine(RuleBasedStateMachine):
    """Draws what happens; subclasses give the world it happens in."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.demands = 0

    @rule(
        model=st.sampled_from(MODELS),
        behaviour=st.sampled_from(sorted(BEHAVIOURS)),
        keep_alive=st.sampled_from([0.0, 3.0, 300.0, math.inf]),
        gib=st.sampled_from([0, 1, 3, 6, 20]),
        concurrency=st.sampled_from([None, 1, 2]),
        wait=st.sampled_from([None, 0.0, 5.0]),
        answer=st.sampled_from([0.0, 1.0, 8.0, None]),
    )
    def ask(
        self,
        model: str,
        behaviour: str,
        keep_alive: float,
        gib: int,
        concurrency: int | None,
        wait: float | None,
        answer: float | None,
    ) -> None:
        self.demands += 1
        self.world.ask(
            self.demands,
            f"{model}.{behaviour}",
            keep_alive=keep_alive,
            needs=Memory(gib * _GIB),
            concurrency=concurrency,
            wait=wait,
            answer=answer,
        )

    @precondition(lambda self: self.demands)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(data.draw(st.integers(max(1, self.demands - 6), self.demands)))

    @precondition(lambda self: self.demands)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.integers(max(1, self.demands - 6), self.demands)))

    @rule(model=st.sampled_from(MODELS))
    def crash(self, model: str) -> None:
        self.world.crash(model)

    @rule(model=st.sampled_from(MODELS))
    def unload(self, model: str) -> None:
        self.world.unload(model)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 6.0, 12.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def teardown(self) -> None:
        """Whatever happened: once nothing new comes, everybody is answered and everything ends."""
        self.world.close()


class RulesMachine(ScheduleMachine):
    """The rules alone, in simulated time."""

    world: Simulation

    @initialize(
        slots=st.integers(1, 3),
        capacity=st.sampled_from([None, 7, 10]),
        queue=st.sampled_from([3, 512]),
    )
    def begin(self, slots: int, capacity: int | None, queue: int) -> None:
        limits = Limits(slots=slots, queue=queue, wait=120.0)
        self.world = Simulation(limits, Capacity(None if capacity is None else capacity * _GIB))

    @rule(capacity=st.sampled_from([None, 5, 10]), grown=st.sampled_from([0, 2, 7]))
    def measure(self, capacity: int | None, grown: int) -> None:
        used = {runner_id: Memory(grown * _GIB) for runner_id in list(self.world.state.runners)[:1]}
        self.world.post(events.Measured(Capacity(None if capacity is None else capacity * _GIB), used))

    @rule(model=st.sampled_from(MODELS))
    def forgive(self, model: str) -> None:
        model_id: Digest = key_of(model).model_id
        self.world.post(events.Forgiven(model_id))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            super().teardown()
