"""`make bench-swap`: many requests for more models than there are places, against first come, first served.

The real rules on a simulated clock: 200 queued requests for 3 models, 1 slot, one request at a time, a load as long as
20 requests. First come, first served evicts whenever the next request is for another model, which is what most runners
do. Printed are both totals, the longest wait, and the longest any model waited for its turn, each with its bound.
"""

from __future__ import annotations

import random
import sys
from typing import Final

from dmr_core.services.scheduling.queueing import turn_bound
from dmr_core.services.scheduling.state import Limits
from tests.scheduling.behaviours import BEHAVIOURS, Behaviour
from tests.scheduling.simulation import Simulation

_SEED: Final = 7
_REQUESTS: Final = 200
_MODELS: Final = "abc"
_SERVICE: Final = 0.5
_LOAD: Final = 20 * _SERVICE
_STOP: Final = 0.2


def main() -> int:
    """Run both, print the comparison; 1 if a bound does not hold."""
    chance = random.Random(_SEED)
    order = [chance.choice(_MODELS) for _ in range(_REQUESTS)]
    BEHAVIOURS["bench"] = Behaviour(load=_LOAD)
    limits = Limits(slots=1)
    world = Simulation(limits, longest_load=_LOAD)
    done: dict[int, float] = {}

    def finished(demand: int) -> None:
        done[demand] = world.now

    world.on_finish = finished
    for number, model in enumerate(order, 1):
        world.ask(number, f"{model}.bench", concurrency=1, answer=_SERVICE)
    while len(done) + len(world.refused) < _REQUESTS:
        world.pass_time(1.0)
    ours, longest = max(done.values()), max(world.waits)
    theirs = _first_come_first_served(order)
    turn = turn_bound(limits, models=len(_MODELS), load=_LOAD, answer=_SERVICE, stop=_STOP)

    print(f"{_REQUESTS} requests, {len(_MODELS)} models, 1 slot, load {_LOAD:g} s, answer {_SERVICE:g} s, seed {_SEED}")
    print(f"  first come, first served   total {theirs:8.1f} s")
    print(f"  dmr                        total {ours:8.1f} s = {ours / theirs:.3f} x; {world.loads} loads")
    print(f"  longest wait               {longest:8.1f} s, bound {limits.wait:g} s")
    print(f"  longest wait for a turn    {world.longest_turn:8.1f} s, bound {turn:.1f} s")
    held = ours <= theirs / 2 and longest <= limits.wait and world.longest_turn <= turn and not world.refused
    print("  held" if held else "  NOT HELD")
    return 0 if held else 1


def _first_come_first_served(order: list[str]) -> float:
    now, loaded = 0.0, ""
    for model in order:
        if model != loaded:
            now += (_STOP if loaded else 0.0) + _LOAD
            loaded = model
        now += _SERVICE
    return now


if __name__ == "__main__":
    sys.exit(main())
