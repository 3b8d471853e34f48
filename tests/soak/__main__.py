"""``python -m tests.soak [--seconds N] [--seed N] [--json FILE]``: serve mixed traffic for a while, and forgive nothing.

See ``docs/reliability.md`` for what it does and how its output is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.processes import main
from tests.soak import verdict
from tests.soak.client import Client
from tests.soak.departure import depart
from tests.soak.ledger import Ledger
from tests.soak.sampling import Sampler, idle
from tests.soak.service import GRACE, Service
from tests.soak.targets import TARGETS
from tests.soak.traffic import Traffic
from tests.soak.trouble import Trouble

_CLIENTS: Final = 5
_SETTLE: Final = 60.0
_SHORTEST: Final = 20
_EXIT_LIMIT: Final = GRACE + 10.0
_FAMILIES: Final = {"dmr_loads_total": "loads", "dmr_unloads_total": "unloads", "dmr_evictions_total": "evictions"}


def soak(seconds: int, seed: int, record: Path | None) -> bool:
    """Run it all; whether every rule is met."""
    root = Path(tempfile.mkdtemp(prefix="dmr-soak-"))
    service, kept = Service(root), True
    print(f"soak of {seconds} s, seed {seed}; log in {service.log}")
    try:
        service.start()
        run = asyncio.run(_run(service, seconds, seed))
        met = all(rule.met for rule in verdict.rules(run))
        print(verdict.table(run))
        if record is not None:
            record.write_text(json.dumps(verdict.record(run), indent=1) + "\n", encoding="utf-8")
        kept = not met
        return met
    finally:
        service.kill()
        if not kept:
            shutil.rmtree(root)


async def _run(service: Service, seconds: int, seed: int) -> verdict.Run:
    client, ledger = Client(service.url), Ledger()
    traffic, sampler = Traffic(client, ledger), Sampler(service.pid, ledger)
    trouble = Trouble(service.pid, client, ledger, traffic)
    try:
        missing = await trouble.look_around()
        await traffic.learn()
        await _rehearse(traffic, trouble, seed)
        await client.ask("POST", "/engines/unload", {"all": True})
        before = await idle(service.pid, client, limit=_SETTLE)
        ledger.outcomes.clear()
        trouble.deeds.clear()
        began = time.monotonic()
        until = began + seconds
        ledger.epoch = began
        actors = [traffic.visit(f"{seed}/client {number}", until) for number in range(_CLIENTS)]
        actors += [
            trouble.manage(f"{seed}/manager", until),
            trouble.harm(f"{seed}/harm", until),
            trouble.crowds(f"{seed}/crowds", until),
            trouble.besiege(f"{seed}/siege", until),
            trouble.mend(until),
        ]
        sampling = asyncio.ensure_future(sampler.run(began, until))
        async with asyncio.TaskGroup() as group:
            for actor in actors:
                group.create_task(actor)
        await sampling
        counters = await _counters(client)
        await client.ask("POST", "/engines/unload", {"all": True})
    finally:
        await client.aclose()
    client = Client(service.url)
    try:
        after = await idle(service.pid, client, limit=_SETTLE, wanted=before)
        status, took, leftovers = await depart(service, client, ledger, sampler.seen, _EXIT_LIMIT)
    finally:
        await client.aclose()
    return verdict.Run(
        seed=seed,
        duration=float(seconds),
        ledger=ledger,
        deeds=trouble.deeds,
        samples=sampler.samples,
        before=before,
        after=after,
        counters=counters,
        missing=missing,
        exit_status=status,
        exit_seconds=took,
        exit_limit=_EXIT_LIMIT,
        leftovers=leftovers,
    )


async def _rehearse(traffic: Traffic, trouble: Trouble, seed: int) -> None:
    """Everything once, so that what is made once is there when the figures of the beginning are taken."""
    random = Random(f"{seed}/rehearsal")
    for target in TARGETS:
        for action in ("chat", "stream", "leave a stream", "leave a chat", "embed"):
            await traffic.act(random, target, action=action)
    await trouble.rehearse(random)


async def _counters(client: Client) -> dict[str, float]:
    """Totals of the service's own counters."""
    answer = await client.ask("GET", "/metrics")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            if sample.name in _FAMILIES:
                labels = " ".join(
                    value for name, value in sorted(sample.labels.items()) if name in ("outcome", "reason")
                )
                name = f"{_FAMILIES[sample.name]} {labels}".strip()
                found[name] = found.get(name, 0.0) + sample.value
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    default = int(os.environ.get("SOAK") or 300)
    parser.add_argument("--seconds", type=int, default=default, help="how long (SOAK; %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="what to repeat; by default another one every time")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write everything that was measured")
    given = parser.parse_args()
    if given.seconds < _SHORTEST:
        parser.error(f"--seconds {given.seconds}: a soak takes at least {_SHORTEST} s")
    if given.seed is None:
        given.seed = SystemRandom().randrange(10**6)
    return given


if __name__ == "__main__":
    given = _arguments()
    if sys.platform != "linux":
        sys.exit("the soak reads /proc: it needs Linux")
    main(lambda: soak(given.seconds, given.seed, given.json))
