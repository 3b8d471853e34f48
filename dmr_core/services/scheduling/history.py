"""What the scheduler decided lately, and why: the facts behind ``dmr why``."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import attrs

from dmr_core.domain.engine import RunnerKey

__all__ = ["Decision", "History"]

_KEPT: Final = 512


@attrs.frozen(kw_only=True)
class Decision:
    """Something that was decided about a model.

    ``at`` is seconds since the epoch. ``what`` is one of ``loading``, ``ready``, ``failed``, ``crashed``, ``waiting``,
    ``granted``, ``refused``, ``evicted``, ``unloaded``; ``why`` says the reason in a sentence; ``numbers`` has the
    figures it went by, named with their unit (``need_bytes``, ``seconds``).
    """

    at: float
    key: RunnerKey
    alias: str
    what: str
    why: str = ""
    numbers: Mapping[str, float] = attrs.field(factory=dict)


class History:
    """The latest decisions, oldest first; bounded."""

    def __init__(self) -> None:
        self._decisions: deque[Decision] = deque(maxlen=_KEPT)

    def add(self, decision: Decision) -> None:
        """Keep a decision; one that only repeats the last one is counted there (``times``)."""
        last = self._decisions[-1] if self._decisions else None
        if last is not None and (last.key, last.what) == (decision.key, decision.what) and decision.what == "refused":
            self._decisions.pop()
            times = last.numbers.get("times", 1.0) + 1.0
            decision = attrs.evolve(decision, numbers={**decision.numbers, "times": times})
        self._decisions.append(decision)

    def of(self, *, model_id: object = None) -> tuple[Decision, ...]:
        """Those about one model, or all of them."""
        return tuple(d for d in self._decisions if model_id is None or d.key.model_id == model_id)
