"""What was acknowledged while several clients changed one store, and what must be there because of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

__all__ = ["Change", "Ledger"]


@attrs.define
class Change:
    """Somebody wants ``tag`` to be of ``model``, or of none. ``done`` is unknown where nobody answered."""

    tag: str
    model: str | None
    start: float
    end: float = float("inf")
    done: bool | None = None


class Ledger:
    """Every change of every tag. May be written by several threads."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self._changes: defaultdict[str, list[Change]] = defaultdict(list)
        self._turn = threading.Lock()

    @contextmanager
    def change(self, tag: str, model: str | None) -> Iterator[Change]:
        """Record a change from before it is asked for until it is answered."""
        made = Change(tag, model, time.monotonic())
        with self._turn:
            self._changes[tag].append(made)
        try:
            yield made
        finally:
            made.end = time.monotonic()

    def answered(self, what: str) -> None:
        """Count an answer."""
        with self._turn:
            self.answers[what] += 1

    def possible(self, tag: str) -> set[str | None]:
        """What ``tag`` may be at the end: what the last change made it, or one that ran beside the last."""
        changes = [change for change in self._changes[tag] if change.done is not False]
        sure = [change for change in changes if change.done]
        found: set[str | None] = set()
        for change in changes:
            if not any(other.start > change.end for other in sure if other is not change):
                found.add(change.model)
        if not sure:
            found.add(None)
        return found

    def wrong(self, tags: dict[str, str]) -> list[str]:
        """Every tag that is not what it must be."""
        return [
            f"{tag} is {tags.get(tag)} and may be {sorted(map(str, self.possible(tag)))}"
            for tag in sorted(self._changes.keys() | tags.keys())
            if tags.get(tag) not in self.possible(tag)
        ]
