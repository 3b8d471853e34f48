"""How the engines of a schedule behave. A model's alias says it: ``b.hang`` is model ``b``, whose load hangs."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["BEHAVIOURS", "Behaviour", "behaviour_of"]


@attrs.frozen(kw_only=True)
class Behaviour:
    """Times in seconds of the schedule. ``load``: until it is ready, or fails.

    ``fails``: how the load ends instead: ``killed`` by a signal, ``corrupt`` (it says no), out of ``memory``, or it
    ``hangs``. ``lives``: how long it serves before it dies. ``stubborn``: it ignores SIGTERM.
    """

    load: float = 1.0
    fails: str = ""
    lives: float | None = None
    stubborn: bool = False


BEHAVIOURS: Final = {
    "good": Behaviour(),
    "slow": Behaviour(load=6.0),
    "killed": Behaviour(load=0.5, fails="killed"),
    "corrupt": Behaviour(load=0.5, fails="corrupt"),
    "memory": Behaviour(load=0.5, fails="memory"),
    "hang": Behaviour(fails="hangs"),
    "dies": Behaviour(lives=2.0),
    "stubborn": Behaviour(stubborn=True),
}


def behaviour_of(alias: str) -> Behaviour:
    """The behaviour an alias names."""
    return BEHAVIOURS[alias.partition(".")[2]]
