"""One supervised child, from its start until nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final, TypeVar

from dmr_adapters.process import listeners, process_table
from dmr_adapters.process.footprint import footprint_of
from dmr_adapters.process.memory_limit import OomCounter
from dmr_adapters.process.output import LineLog, OutputPump
from dmr_adapters.process.process_table import Quarry
from dmr_adapters.process.redaction import Redactor
from dmr_core.domain.memory import Footprint
from dmr_core.errors import DeadlineError
from dmr_core.ports.process import SupervisedProcess

__all__ = ["PosixProcess"]

_KILL_PATIENCE: Final = 10.0
"""How long a process may take to die of SIGKILL: one that frees 100 GB, or waits for a driver, takes a while."""

_UNKNOWN: Final = 255
"""The exit status of a child that somebody else reaped."""

_LONGEST_LOOK: Final = 2.0
"""Seconds after which nothing more is expected of a look: it takes 1 for 200 GiB, for ever in a stuck driver."""

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05

_T = TypeVar("_T")


class PosixProcess(SupervisedProcess):
    """A child that leads its own session and process group.

    Nothing here depends on somebody waiting: the end of the child is an event on the loop, and what
    follows (killing what it left, reaping it, forgetting it) is a task of its own. So any call may be
    cancelled at any point.

    The child is reaped last. Until then it is a zombie, and while it is one the kernel gives its pid,
    its group and its session number to nobody else, which makes signalling them safe.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        *,
        name: str,
        token: str,
        output: tuple[OutputPump, LineLog],
        redact: Redactor,
        threads: Executor,
        looks: Executor,
        on_gone: Callable[[PosixProcess], None],
    ) -> None:
        self.pid = popen.pid
        self.name = name
        self.token = token
        self.start_time = process_table.start_time(popen.pid)
        self._popen = popen
        self._pump, self._lines = output
        self._redact = redact
        self._threads = threads
        self._looks = looks
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._gone: asyncio.Future[int] = self._loop.create_future()
        self._kill_at: float | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._look: asyncio.Future[Footprint | None] | None = None
        self._oom = OomCounter()
        self._out_of_memory = False
        self._watch()

    def __repr__(self) -> str:
        return f"<PosixProcess {self.name!r} pid={self.pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """See :class:`SupervisedProcess`."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """See :class:`SupervisedProcess`. Everything the child printed is in :meth:`tail` by then."""
        return await asyncio.shield(self._exited)

    def tail(self) -> str:
        """See :class:`SupervisedProcess`. Has everything that was printed before the call."""
        self._pump.drain()
        return self._redact(self._lines.tail())

    @property
    def out_of_memory(self) -> bool:
        """See :class:`SupervisedProcess`."""
        return self._out_of_memory

    async def cpu_seconds(self) -> float | None:
        """See :class:`SupervisedProcess`."""
        if self._exited.done():  # its number may be somebody else's soon
            return None
        return await self._look_at(lambda: process_table.cpu_seconds(self._quarry()))

    async def memory(self) -> Footprint | None:
        """See :class:`SupervisedProcess`.

        Who asks meanwhile shares the look: the kernel takes 5 ms for a GiB of weights.
        """
        if self._exited.done():
            return None

        def look() -> Footprint | None:
            return footprint_of(process_table.find(self._quarry()))

        if self._look is None or self._look.done():
            self._look = self._loop.run_in_executor(self._looks, look)
        found = await _within_bounds(self._look)
        return None if self._exited.done() else found

    async def listens_on(self, port: int) -> bool | None:
        """See :class:`SupervisedProcess`."""
        if self._exited.done():
            return False

        def look() -> bool | None:
            return listeners.holds_listener(process_table.find(self._quarry()), port)

        return await self._look_at(look)

    async def _look_at(self, look: Callable[[], _T]) -> _T | None:
        """What the look finds; ``None`` if it takes too long. One that has not begun by then never does."""
        work = self._loop.run_in_executor(self._looks, look)
        try:
            return await _within_bounds(work)
        finally:
            work.cancel()

    async def stop(self, grace: float) -> int:
        """End the child and everything it started; returns once nothing of it is left.

        Idempotent, and callable by many: the shortest grace counts. Cancelling stops the waiting, not
        the ending.

        Raises:
            DeadlineError: something survived SIGKILL for ten seconds.
        """
        kill_at = self._ask_to_end(max(grace, 0.0))
        patience = max(kill_at - self._loop.time(), 0.0) + _KILL_PATIENCE
        await asyncio.wait({self._gone}, timeout=patience)
        if not self._gone.done():
            raise DeadlineError(f"{self.name} (process {self.pid}) did not end {_KILL_PATIENCE:g} s after SIGKILL")
        return self._gone.result()

    # --- the end of the child -----------------------------------------------------------------------

    def _watch(self) -> None:
        if not hasattr(os, "pidfd_open"):
            threading.Thread(target=self._watch_in_thread, name=f"watch-{self.pid}", daemon=True).start()
            return
        descriptor = os.pidfd_open(self.pid)  # close-on-exec by definition

        def exited() -> None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            self._exit()

        self._loop.add_reader(descriptor, exited)

    def _watch_in_thread(self) -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._exit)

    def _exit(self) -> None:
        if self._kill_at is None:
            # It ended by itself, so nobody asked its workers to end, and nobody leads them any more.
            self._signal_group(signal.SIGKILL)
        self._pump.drain()
        status = self._status()
        # Somebody else's SIGKILL; ours is not the kernel's.
        self._out_of_memory = self._kill_at is None and status == -signal.SIGKILL and self._oom.counted()
        self._exited.set_result(status)
        self._ending = self._loop.create_task(self._end(), name=f"end of {self.name} ({self.pid})")

    def _quarry(self) -> Quarry:
        """The child and all it started; to be used only before the child is reaped."""
        return Quarry(tokens=frozenset({self.token}), since=self.start_time or 0, session=self.pid)

    def _status(self) -> int:
        if self._popen.returncode is not None or not hasattr(os, "waitid"):
            return self._popen.wait()
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored, so the kernel reaped it and nobody will ever know
            return _UNKNOWN
        if found is None:  # cannot be: we were told of the end
            return self._popen.wait()
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    async def _end(self) -> None:
        """End what the child left, within the grace it was given, then reap it."""
        quarry = self._quarry()
        pause = _FIRST_PAUSE
        while found := await self._loop.run_in_executor(self._threads, process_table.find, quarry):
            if self._kill_at is None or self._loop.time() >= self._kill_at:
                self._signal_group(signal.SIGKILL)
                process_table.kill(found, quarry)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._look is not None:
            self._look.cancel()
        self._popen.wait()  # a zombie: returns at once
        self._pump.drain()
        self._pump.close()
        self._on_gone(self)
        self._gone.set_result(self._exited.result())

    # --- signals ------------------------------------------------------------------------------------

    def _ask_to_end(self, grace: float) -> float:
        now = self._loop.time()
        kill_at = now + grace
        if self._kill_at is None:
            if self._exited.done():  # it ended by itself, and its remains are being killed
                return now
            self._signal_group(signal.SIGTERM)
        elif self._kill_at <= kill_at:
            return self._kill_at
        self._kill_at = kill_at
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = self._loop.call_at(kill_at, self._signal_group, signal.SIGKILL)
        return kill_at

    def _signal_group(self, number: signal.Signals) -> None:
        if self._popen.returncode is None:  # after that its number may be somebody else's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


async def _within_bounds(work: asyncio.Future[_T]) -> _T | None:
    """The result, if it comes in time and nobody calls the work off."""
    await asyncio.wait({work}, timeout=_LONGEST_LOOK)
    return work.result() if work.done() and not work.cancelled() else None
