"""Responses that nobody waits for: worked on in the background, watched, resumed and cancelled."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator
from typing import Any, Final

from starlette.types import Message

from dmr_adapters.http.event_stream import PING
from dmr_adapters.http.responses.assembly import Event
from dmr_adapters.http.responses.turn import Turn, TurnSink, event_bytes
from dmr_core.errors import DmrError, QueueFullError
from dmr_core.ports.response_store import KeptResponse

__all__ = ["BackgroundRuns", "Run", "abandoned", "replayed"]

_log: Final = logging.getLogger("dmr.responses")
_MAX_RUNS: Final = 256
_MAX_LOG: Final = 64 * 1024 * 1024
_BEAT: Final = 10.0
"""Seconds between two times that a run says, in the store, that it is alive."""
_SILENCE: Final = 30.0
"""Seconds without that, after which whoever worked on it is gone."""
_QUIET: Final = 15.0


class Run:
    """One response in the making, and everything that was said of it, as it would be sent."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.log: list[bytes] = []
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self._size = 0
        self._stop = asyncio.Event()
        self._news = asyncio.Event()

    def document(self) -> dict[str, Any]:
        """The response as it is now."""
        return self.turn.assembly.document if self.turn.assembly.ended else self.turn.assembly.snapshot()

    def add(self, events: list[Event]) -> None:
        """Append to what was said."""
        for event in events:
            piece = event_bytes([event])
            self.log.append(piece)
            self._size += len(piece)
        self._tell()

    @property
    def full(self) -> bool:
        """Whether more was said than is kept."""
        return self._size > _MAX_LOG

    async def cancel(self) -> None:
        """Have it stop, and wait until it did."""
        self._stop.set()
        if self.task is not None:
            await asyncio.wait({self.task})

    async def receive(self) -> Message:
        """What a run's client would send: nothing, until it is cancelled."""
        await self._stop.wait()
        return {"type": "http.disconnect"}

    def end(self) -> None:
        """Nothing more will be said."""
        self.over = True
        self._tell()

    async def events(self, after: int) -> AsyncGenerator[bytes, None]:
        """Events beyond the one of sequence number ``after``, as they come, and a sign of life where none does."""
        position = max(0, after + 1)
        while True:
            news = self._news
            while position < len(self.log):
                position += 1
                yield self.log[position - 1]
            if self.over:
                return
            try:
                async with asyncio.timeout(_QUIET):
                    await news.wait()
            except TimeoutError:
                yield PING

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class _RunSink(TurnSink):
    def __init__(self, run: Run) -> None:
        super().__init__(run.turn)
        self._run = run

    async def tell(self, events: list[Event]) -> None:
        self._run.add(events)

    async def take(self, content: bytes, *, last: bool) -> bool:
        if self._run.full and not self.turn.assembly.ended:
            self._run.add(self.turn.assembly.fail(f"the stream of the response is longer than {_MAX_LOG} bytes"))
            return False
        return await super().take(content, last=last)

    def replay(self, last: list[Event]) -> bytes:
        return _packed([*self._run.log, event_bytes(last)])


class BackgroundRuns:
    """The runs of this service. Close it before the store."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def find(self, response_id: str) -> Run | None:
        """A run that is under way."""
        return self._runs.get(response_id)

    async def start(self, turn: Turn) -> Run:
        """Begin, once it is in the store.

        Raises:
            QueueFullError: as many as may are under way.
        """
        if len(self._runs) >= _MAX_RUNS:
            raise QueueFullError(f"{_MAX_RUNS} responses are being worked on in the background; try again later")
        run = self._runs[turn.id] = Run(turn)
        try:
            run.add(turn.assembly.queue())
            await turn.keep(run.document(), finished=False)
        except BaseException:
            del self._runs[turn.id]
            raise
        run.task = asyncio.get_running_loop().create_task(self._work(run), name=f"response-{turn.id}")
        return run

    async def aclose(self) -> None:
        """Give up what is under way; it is kept as having failed."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, run: Run) -> None:
        assembly = run.turn.assembly
        beat = asyncio.get_running_loop().create_task(_beat(run), name=f"beat-{run.turn.id}")
        try:
            refused = await run.turn.ask(run.receive, _RunSink(run))
            if refused is not None:
                run.add(assembly.fail(refused.error[0]))
        except DmrError as exc:
            run.add(assembly.fail(exc.message))
        except asyncio.CancelledError:
            if not assembly.ended:
                run.add(assembly.fail("the service stopped before the response was complete"))
        except Exception:
            _log.exception("response %s failed", run.turn.id)
            if not assembly.ended:
                run.add(assembly.fail("internal error"))
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            if not assembly.ended:
                assembly.cancel()
            if not run.turn.settled:
                await run.turn.keep(assembly.document, finished=True, events=_packed(run.log))
            run.end()
            del self._runs[run.turn.id]


async def _beat(run: Run) -> None:
    while True:
        await run.turn.clock.sleep(_BEAT)
        await run.turn.keep(run.document(), finished=False)


def abandoned(kept: KeptResponse, now: float) -> bool:
    """Whether whoever worked on a response is gone. ``now`` in seconds since the Unix epoch."""
    return not kept.finished and now - kept.written > _SILENCE


async def replayed(kept: KeptResponse, after: int) -> AsyncGenerator[bytes, None]:
    """The stream a response was sent as, beyond the event of sequence number ``after``."""
    if not kept.events:
        return
    pieces = zlib.decompress(kept.events).split(b"\n\n")[:-1]
    for piece in pieces[max(0, after + 1) :]:
        yield piece + b"\n\n"


def _packed(log: list[bytes]) -> bytes:
    return zlib.compress(b"".join(log), 1)
