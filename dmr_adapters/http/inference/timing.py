"""Where the time of a request went, for people with a browser's network tab or ``curl -i``."""

from __future__ import annotations

from dmr_core.domain.engine import RunnerKey
from dmr_core.services.scheduling.lease import RunnerView
from dmr_core.services.scheduling.state import Phase

__all__ = ["load_share", "server_timing"]


def server_timing(queue: float, load: float, engine: float) -> bytes:
    """A ``Server-Timing`` field (W3C Server Timing): waiting for a place, loading the model, the engine's first byte.

    Takes seconds and writes milliseconds, as the standard has it.
    """
    return b"queue;dur=%.3f, load;dur=%.3f, engine;dur=%.3f" % (queue * 1e3, load * 1e3, engine * 1e3)


def load_share(runners: tuple[RunnerView, ...], key: RunnerKey, asked: float, leased: float) -> float:
    """How many of the seconds from ``asked`` to ``leased`` the runner of ``key`` was loading."""
    for view in runners:
        if view.key == key and view.phase is Phase.READY and view.load_seconds is not None:
            begun = view.since - view.load_seconds
            return max(0.0, min(view.since, leased) - max(begun, asked))
    return 0.0
