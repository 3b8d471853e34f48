"""The end of a soak: the daemon is told to stop while it works, and nothing of it may stay."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.soak import proc
from tests.soak.client import Client, chat_body
from tests.soak.ledger import Ledger
from tests.soak.service import Service
from tests.soak.targets import REAL, WILLING, Target

__all__ = ["depart", "leftovers"]

_LONG: Final = " ".join(f"word{number}" for number in range(1000))
_GONE: Final = 5.0


async def depart(
    service: Service, client: Client, ledger: Ledger, seen: Mapping[int, int], limit: float
) -> tuple[int | None, float, list[str]]:
    """SIGTERM with a stream on its way and another engine idle: exit status, seconds it took, and what it left."""
    real, willing = Target(REAL, "soak/one"), Target(WILLING, "soak/two")
    # Having been killed often enough, a model is not tried again before somebody asks for it.
    await client.ask("POST", "/engines/unload", {"models": [real.model, willing.model]})
    answer = await client.ask("POST", real.path("chat/completions"), chat_body(real.model, "Hello!"))
    if answer.status != 200:
        ledger.fault(f"after the soak {real.name} answers {answer.status}: {answer.body[:300]!r} {answer.failure}")
    body = chat_body(willing.model, _LONG, stream=True)
    streaming = asyncio.ensure_future(client.stream(willing.path("chat/completions"), body))
    await asyncio.sleep(1.5)
    everything = {**seen, **proc.descendants(service.pid)}
    began = time.monotonic()
    service.terminate()
    told = await streaming
    if told.status == 200 and told.ended not in ("done", "error"):
        ledger.fault(f"a stream that was on its way at SIGTERM ended without an end: {told.message or told.ended}")
    elif told.status not in (200, 503):
        ledger.fault(f"a stream that was on its way at SIGTERM: {told.status} {told.code}: {told.message}")
    status = await asyncio.to_thread(service.wait, limit + 20.0)
    took = time.monotonic() - began
    return status, took, await asyncio.to_thread(leftovers, service, everything)


def leftovers(service: Service, seen: Mapping[int, int]) -> list[str]:
    """Processes, sockets and files that a daemon which has ended left, and complaints in its log."""
    deadline = time.monotonic() + _GONE
    while time.monotonic() < deadline and (
        any(proc.alive(*one) for one in seen.items()) or proc.holding(str(service.root))
    ):
        time.sleep(0.05)
    found = [f"process {pid} lives" for pid, start in seen.items() if proc.alive(pid, start)]
    found += [f"process {pid} has the directory in its command" for pid in proc.holding(str(service.root))]
    sockets = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    found += [f"socket: {line.split()[-1]}" for line in sockets.splitlines() if str(service.root) in line]
    found += [
        f"socket file: {path}" for path in (service.root / "run").rglob("*") if stat.S_ISSOCK(path.stat().st_mode)
    ]
    found += [f"runtime directory: {path}" for path in (service.root / "run").glob("*/") if path.is_dir()]
    found += [f"temporary file: {path}" for path in service.temporary.rglob("*")]
    partial = service.root / "models" / ".dmr" / "ingest"
    found += [f"partial file: {path}" for path in partial.rglob("*") if path.is_file()]
    return found + _complaints(service)


def _complaints(service: Service) -> list[str]:
    marks = ("Traceback", "Exception ignored", "never retrieved", "never awaited", "unexpected error", "Warning:")
    lines = service.log.read_text(encoding="utf-8", errors="replace").splitlines()
    bad = [number for number, line in enumerate(lines) if any(mark in line for mark in marks)]
    told = [f"log, line {number + 1}: {' | '.join(lines[number : number + 3])}" for number in bad[:5]]
    return [*told, f"{len(bad)} complaints in {service.log}"] if bad else []
