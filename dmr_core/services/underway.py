"""Loads under way: who waits for one with which settings, so that settings do not change under them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from dmr_core.errors import RunnerActiveError
from dmr_core.ports.config_store import ConfigKey
from dmr_core.services.scheduling.lease import RunnerView

__all__ = ["Underway"]


@attrs.define(eq=False)
class Underway:
    """Counts what no runner shows yet: settings are read before a load is asked for, and it is decided on later still."""

    _waiting: Counter[ConfigKey] = attrs.field(factory=Counter)
    _preloads: dict[asyncio.Task[Any], ConfigKey] = attrs.field(factory=dict)

    @contextmanager
    def waiting(self, key: ConfigKey) -> Iterator[None]:
        """Somebody waits, with settings that were read just now."""
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1

    @contextmanager
    def preloading(self, key: ConfigKey) -> Iterator[None]:
        """The current task loads for nobody in particular; it is cancelled by :meth:`give_up`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._preloads[task] = key
        try:
            yield
        finally:
            del self._preloads[task]

    async def give_up(self, keys: Iterable[ConfigKey]) -> None:
        """End preloads, and return once they have ended."""
        keys = frozenset(keys)
        tasks = [task for task, key in self._preloads.items() if key in keys]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def check_idle(self, keys: Iterable[ConfigKey], views: Iterable[RunnerView]) -> None:
        """Refuse to restart what somebody uses or waits for. A runner that loads for nobody is in nobody's way.

        Raises:
            RunnerActiveError: says who. The stock CLI knows its first words.
        """
        for view in views:
            if view.leases:
                raise RunnerActiveError(
                    f"runner already active: {view.alias!r} is answering {view.leases} request(s); try again once it is done"
                )
        if any(self._waiting[key] for key in keys):
            raise RunnerActiveError("runner already active: a request waits for it to be loaded; try again later")
