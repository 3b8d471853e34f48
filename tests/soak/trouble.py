"""What goes on beside the clients: management calls, killed and frozen engines, unloads, and crowds."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Final

import attrs
from prometheus_client.parser import text_string_to_metric_families

from tests.soak import proc
from tests.soak.client import Answer, Client
from tests.soak.ledger import Ledger, Outcome
from tests.soak.service import QUEUE
from tests.soak.targets import TARGETS, Target
from tests.soak.traffic import Traffic

__all__ = ["OPTIONAL", "Trouble"]

OPTIONAL: Final = ("/healthz", "/readyz", "/engines/requests", "/logs", "/dmr/v1/why?model=soak/one")
"""Routes that are looked at where the service has them."""

_ALWAYS: Final = ("/engines/ps", "/models", "/v1/models", "/engines/status", "/engines/df", "/metrics")
_QUICK: Final = 30.0
_FREEZE: Final = (0.3, 2.5)
_KEEP_ALIVES: Final = ("1s", "3s", "10s", "1m", "-1")
_CROWD: Final = 3 * QUEUE
_MOST_ASKED: Final = 20
_SIEGE: Final = 60.0


@attrs.define
class Trouble:
    """Everything that clients do not do. ``routes`` are those that :meth:`look_around` found."""

    pid: int
    client: Client
    ledger: Ledger
    traffic: Traffic
    routes: tuple[str, ...] = _ALWAYS
    deeds: Counter[str] = attrs.field(factory=Counter)

    async def look_around(self) -> list[str]:
        """Find out which of the optional routes there are; those that are missing."""
        found: list[str] = []
        missing: list[str] = []
        for route in OPTIONAL:
            answer = await self.client.ask("GET", route)
            (found if answer.status == 200 else missing).append(route)
        self.routes = (*_ALWAYS, *found)
        return missing

    async def manage(self, seed: str, until: float) -> None:
        """Look at everything, all the time; change how long models are kept, preload and unload some."""
        random = Random(seed)
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.2, 1.5))
            chance, target = random.random(), random.choice([target for target in TARGETS if not target.failing])
            keep_alive = random.choice(_KEEP_ALIVES)
            if chance < 0.75:
                await self._look(random.choice(self.routes))
            elif chance < 0.85:
                await self._keep(target, keep_alive)
            elif chance < 0.92:
                await self.unload(target)
            else:
                await self._preload(target)

    async def harm(self, seed: str, until: float) -> None:
        """Kill engines, or stop them for a while."""
        random = Random(seed)
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(3.0, 9.0))
            freeze, pause, luck = random.random() < 0.3, random.uniform(*_FREEZE), random.random()
            there = proc.engines(self.pid)
            if not there:
                continue
            victim = there[math.floor(luck * len(there))]
            if freeze:
                await self._freeze(victim, pause)
            else:
                self._kill(victim)

    async def besiege(self, seed: str, until: float) -> None:
        """Now and then, kill one model's engine as often as it comes up, until the service tries no more."""
        random = Random(seed)
        while True:
            await asyncio.sleep(random.uniform(15.0, 90.0))
            if time.monotonic() > until - _SIEGE:
                return
            target = random.choice([target for target in TARGETS if not target.failing])
            self.deeds["sieges"] += 1
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(self._kill_whenever(target))
                for _ in range(_MOST_ASKED):
                    await self.traffic.act(random, target, action="chat")
                    if target in self.traffic.given_up:
                        break
                killing.cancel()
            await self.relent()
            await self.traffic.act(random, target, action="chat")

    async def _kill_whenever(self, target: Target) -> None:
        """Kill every engine of a target, once each."""
        killed = set()
        while True:
            await asyncio.sleep(0.05)
            for engine in proc.engines(self.pid):
                of_target = (engine.backend, engine.model) == (target.backend, target.model)
                if of_target and engine.start not in killed and self._kill(engine):
                    killed.add(engine.start)

    def _kill(self, engine: proc.EngineChild) -> bool:
        # Written down first: whoever it answers must not learn of it before the ledger does.
        if not proc.alive(engine.pid, engine.start):
            return False
        self.ledger.did("kill", engine.backend, engine.model, time.monotonic())
        self.deeds["engines killed"] += 1
        return _signal(engine, signal.SIGKILL)

    async def crowds(self, seed: str, until: float) -> None:
        """Now and then, ask for more at once than may wait."""
        random = Random(seed)
        while time.monotonic() < until - 10.0:
            await asyncio.sleep(random.uniform(8.0, 30.0))
            await self._crowd(random)

    async def _crowd(self, random: Random) -> None:
        deed = self.ledger.did("burst", "", "", time.monotonic(), math.inf)
        self.deeds["crowds"] += 1
        asked = [
            self.traffic.act(random, random.choice(TARGETS), action=random.choice(("chat", "stream")))
            for _ in range(_CROWD)
        ]
        try:
            await asyncio.gather(*asked)
        finally:
            deed.ended = time.monotonic()

    async def rehearse(self, random: Random) -> None:
        """One of every management call, and some crowds."""
        for route in self.routes:
            await self._look(route)
        target = TARGETS[0]
        await self._keep(target, "10s")
        await self._preload(target)
        await self.unload(target)
        for _ in range(3):
            await self._crowd(random)

    async def mend(self, until: float) -> None:
        """Let every model that was given up be tried again, soon after."""
        while time.monotonic() < until:
            await asyncio.sleep(5.0)
            await self.relent()

    async def relent(self) -> None:
        """Do what the error of a model that is no longer started says: unload it."""
        for target in TARGETS:
            if target in self.traffic.given_up:
                self.deeds["given up, and asked to try again"] += 1
                await self.unload(target)
                self.traffic.given_up.discard(target)

    async def unload(self, target: Target) -> None:
        """Unload one model from one engine."""
        deed = self.ledger.did("unload", target.backend, target.model, time.monotonic(), math.inf)
        body = {"models": [target.model], "backend": target.backend}
        answer = await self._call("unload", target, "POST", "/engines/unload", body)
        deed.ended = time.monotonic()
        self.deeds["unloads"] += 1
        document = answer.document
        if answer.status == 200 and not (isinstance(document, dict) and "unloaded_runners" in document):
            self.ledger.fault(f"unload answered {answer.body[:200]!r}")

    async def _keep(self, target: Target, keep_alive: str) -> None:
        body = {"model": target.model, "keep_alive": keep_alive}
        await self._call("configure", target, "POST", f"/engines/{target.backend}/_configure", body)

    async def _preload(self, target: Target) -> None:
        headers = {"x-preload-only": "true"}
        path = target.path("chat/completions")
        await self._call("preload", target, "POST", path, {"model": target.model, "messages": []}, headers=headers)

    async def _look(self, route: str) -> None:
        answer = await self._call("look", None, "GET", route)
        if route == "/metrics" and answer.status == 200:
            try:
                list(text_string_to_metric_families(answer.body.decode()))
            except ValueError as exc:
                self.ledger.fault(f"/metrics cannot be parsed: {exc}")

    async def _call(
        self,
        action: str,
        target: Target | None,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        began = time.monotonic()
        if target is None:
            answer = await self.client.ask(method, path, body, limit=_QUICK)
        else:
            answer = await self.client.ask(method, path, body, headers=headers)
        code, message = ("", "") if answer.status < 400 else answer.error
        self.ledger.note(
            Outcome(
                action=action,
                backend=target.backend if target else path,
                model=target.model if target else "",
                began=began,
                ended=time.monotonic(),
                status=answer.status,
                code=code,
                message=message,
                retry_after=answer.retry_after,
                problem=answer.failure,
            )
        )
        return answer

    async def _freeze(self, victim: proc.EngineChild, pause: float) -> None:
        deed = self.ledger.did("freeze", victim.backend, victim.model, time.monotonic(), math.inf)
        try:
            if _signal(victim, signal.SIGSTOP):
                self.deeds["engines frozen"] += 1
                await asyncio.sleep(pause)
        finally:
            _signal(victim, signal.SIGCONT)
            deed.ended = time.monotonic()


def _signal(victim: proc.EngineChild, number: int) -> bool:
    """Signal an engine, unless it is gone already."""
    if not proc.alive(victim.pid, victim.start):
        return False
    try:
        os.kill(victim.pid, number)
    except ProcessLookupError:
        return False
    return True
