"""Crowds that never go away: every model still has its turn, within the bound that is documented."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from dmr_core.services.scheduling.state import Limits
from tests.scheduling.behaviours import BEHAVIOURS
from tests.scheduling.simulation import Simulation

_HOUR = 3600.0


@settings(max_examples=15, deadline=None)
@given(
    slots=st.integers(1, 2),
    crowds=st.lists(
        st.tuples(st.sampled_from(["good", "slow", "stubborn"]), st.sampled_from([1, 3, 25])), min_size=3, max_size=5
    ),
    concurrency=st.sampled_from([None, 1, 2]),
    answer=st.sampled_from([0.5, 4.0]),
    patience=st.sampled_from([1.0, 10.0]),
)
def test_every_model_has_its_turn_within_the_bound(
    slots: int, crowds: list[tuple[str, int]], concurrency: int | None, answer: float, patience: float
) -> None:
    # Every client asks again the moment it is answered, so that without the rules for turns nobody would ever yield.
    slowest = max(BEHAVIOURS[behaviour].load for behaviour, _ in crowds)
    world = Simulation(Limits(slots=slots, wait=_HOUR, patience=patience), longest_load=slowest)
    numbers, alias_of = count(1), dict[int, str]()

    def ask(alias: str) -> None:
        number = next(numbers)
        alias_of[number] = alias
        world.ask(number, alias, concurrency=concurrency, answer=answer)

    world.on_finish = lambda demand: ask(alias_of[demand])
    for model, (behaviour, clients) in zip("abcde", crowds, strict=False):
        for _ in range(clients):
            ask(f"{model}.{behaviour}")
    world.pass_time(200.0)
    answered = {alias_of[demand] for demand in alias_of if demand not in world.waiting and demand not in world.refused}
    assert len(answered) == len(crowds)
    assert not world.refused
