"""Carrying out the rules of installing, for one backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Final

from dmr_core.domain.engine import BackendState, BackendStatus
from dmr_core.errors import BackendInstallError, DmrError
from dmr_core.ports.engine import Engine
from dmr_core.services.installing import events
from dmr_core.services.installing.events import Phase, State
from dmr_core.services.installing.rules import apply

__all__ = ["Installer"]

_log: Final = logging.getLogger("dmr.backends")

STATUS_TIMEOUT: Final = 5.0
INSTALL_LIMIT: Final = 4 * 3600.0
REMOVAL_LIMIT: Final = 600.0
CANCEL_GRACE: Final = 10.0
_INTERVAL: Final = 0.1


class Installer:
    """Looks after the installation of one backend's engine.

    ``now`` gives monotonic seconds. ``changed`` is called when what can be used changed. ``release`` unloads the
    backend's runners before a removal, and raises where one is busy. Events are applied one at a time, at once,
    on the event loop; the work itself belongs to the installer and not to whoever asked for it.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        now: Callable[[], float],
        changed: Callable[[], None],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self._name = name
        self._engine = engine
        self._now = now
        self._changed = changed
        self._release = release
        self._state = State(name=name)
        self._silent: BackendStatus | None = None
        self._looked_at: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._callers: dict[int, asyncio.Future[None]] = {}
        self._last_caller = 0
        self._work: asyncio.Task[DmrError | None] | None = None
        self._stop = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @staticmethod
    def installs(engine: Engine) -> bool:
        """Whether an engine can be installed by us at all."""
        return getattr(type(engine), "install", Engine.install) is not Engine.install

    # --- looking

    @property
    def state(self) -> State:
        """What is known."""
        return self._state

    def status(self) -> BackendStatus:
        """The state in the words of the wire, whose only states are ``Running``, ``Error``, ``Not Installed``, ``Installing``."""
        state = self._state
        if state.phase is Phase.INSTALLING:
            share = "" if state.share is None else f" ({state.share:.0%})"
            return BackendStatus(BackendState.INSTALLING, f"{state.what}{share}")
        if state.phase is Phase.UNINSTALLING:
            return BackendStatus(BackendState.NOT_INSTALLED, "being removed")
        if state.phase is Phase.FAILED and state.error is not None:
            return BackendStatus(BackendState.ERROR, state.error.message.partition("\n")[0])
        return self._silent or state.status

    def fresh(self, age: float) -> bool:
        """Whether the engine was looked at within the last ``age`` seconds."""
        return self._looked_at is not None and self._now() - self._looked_at <= age

    async def look(self) -> None:
        """Ask the engine how it is. Callers share one look; it ends within ``STATUS_TIMEOUT`` seconds."""
        if self._looking is None or self._looking.done():
            self._looking = self._spawn(self._look(), f"status-{self._name}")
        await asyncio.wait({self._looking})

    async def _look(self) -> None:
        status, silent = await self._ask()
        self._looked_at = self._now()
        # No answer in time tells nothing about an engine that is known to be there.
        self._silent = status if silent else None
        if not silent or self._state.phase is not Phase.INSTALLED:
            self._post(events.Seen(status))

    async def _ask(self) -> tuple[BackendStatus, bool]:
        """The engine's status, and whether that is only our word for its silence."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                return await self._engine.status(), False
        except TimeoutError:
            return BackendStatus(BackendState.ERROR, f"no answer within {STATUS_TIMEOUT:g} s"), True
        except (Exception, SystemExit) as exc:  # a plugin's code: it may raise anything
            return BackendStatus(BackendState.ERROR, f"{type(exc).__name__}: {exc}"), False

    # --- steering

    async def install(self, version: str | None = None, *, on_demand: bool = False) -> None:
        """Return once the engine is there. Callers share one installation; leaving early does not end it.

        Raises:
            ConflictError: another version is being installed, or somebody has it removed.
            BackendInstallError: it failed; ``on_demand`` also while the next attempt is not due yet.
            ShuttingDownError: the service stops.
        """
        if self._state.phase is Phase.UNKNOWN:
            await self.look()
        await self._call(lambda caller: events.Wanted(caller, version, on_demand))

    async def uninstall(self) -> None:
        """Unload the backend's idle runners and remove what was installed; an installation under way is cancelled.

        Raises:
            RunnerActiveError: a runner is busy; nothing was removed.
            BackendInstallError: the backend did not install its engine by itself, or failed to remove it.
            ShuttingDownError: the service stops.
        """
        await self._call(events.Unwanted)

    async def follow(self, version: str | None) -> AsyncGenerator[tuple[str, float | None], None]:
        """As :meth:`install`, telling what happens and which share of it is done. Closing it does not end the work."""
        waiting = self._spawn(self.install(version), f"install-{self._name}-follower")
        told: tuple[str, float | None] | None = None
        try:
            while not waiting.done():
                news = self._news  # taken first, so that nothing told from here on is missed
                now = (self._state.what, self._state.share)
                if self._state.phase is Phase.INSTALLING and now != told:
                    told = now
                    yield now
                    await asyncio.wait({waiting}, timeout=_INTERVAL)  # so often is enough for eyes
                await self._either(waiting, news)
            waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def aclose(self) -> None:
        """Answer everybody, cancel what runs, and return when it has stopped, or ``CANCEL_GRACE`` seconds later."""
        self._post(events.Closed())
        if self._looking is not None:
            self._looking.cancel()
        if tasks := [task for task in self._tasks if task is not self._work]:
            await asyncio.wait(tasks)

    async def _call(self, event: Callable[[int], events.Event]) -> None:
        self._last_caller += 1
        caller = self._last_caller
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers[caller] = answer
        self._post(event(caller))
        try:
            await answer
        finally:
            if self._callers.pop(caller, None) is not None:
                self._post(events.Left(caller))

    async def _either(self, waiting: asyncio.Task[None], news: asyncio.Event) -> None:
        told = asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait({waiting, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            await asyncio.gather(told, return_exceptions=True)

    # --- carrying out

    def _post(self, event: events.Event) -> None:
        before = self._state
        self._state, effects = apply(before, event, self._now())
        for effect in effects:
            self._carry_out(effect)
        if self._state != before:
            self._news.set()  # wakes whoever waits now
            self._news = asyncio.Event()
        if (before.phase, before.usable) != (self._state.phase, self._state.usable):
            self._changed()

    def _carry_out(self, effect: events.Effect) -> None:
        match effect:
            case events.Begin(version):
                _log.info("installing %s%s", self._name, f" {version}" if version else "")
                self._start(self._install(version), INSTALL_LIMIT, "installation")
            case events.Remove():
                _log.info("removing %s", self._name)
                self._start(self._remove(), REMOVAL_LIMIT, "removal")
            case events.Cancel():
                self._stop.set()
            case events.Answer(caller_id, error):
                answer = self._callers.pop(caller_id, None)
                if answer is None or answer.done():
                    return
                if error is None:
                    answer.set_result(None)
                else:
                    answer.set_exception(error)

    def _start(self, work: Coroutine[Any, Any, None], limit: float, what: str) -> None:
        self._stop = asyncio.Event()
        self._spawn(self._supervise(work, self._stop, limit, what), f"{what}-{self._name}")

    async def _supervise(self, work: Coroutine[Any, Any, None], stop: asyncio.Event, limit: float, what: str) -> None:
        """Run ``work`` to its end, within ``limit`` seconds and until ``stop``; then tell the rules how things are."""
        if self._work is not None and not self._work.done():
            work.close()
            error: DmrError | None = BackendInstallError(
                f"earlier work on {self._name} was cancelled and has not ended; restart the service"
            )
        else:
            self._work = self._spawn(self._guarded(work), f"{what}-{self._name}-work")
            error = await self._outcome(self._work, stop, limit, what)
        if error is not None and not stop.is_set():
            _log.warning("%s of %s failed: %s", what, self._name, error.message.partition("\n")[0])
        status = (await self._ask())[0] if self._state.open else self._state.status
        self._looked_at, self._silent = self._now(), None
        self._post(events.Ended(status, error))

    async def _outcome(
        self, task: asyncio.Task[DmrError | None], stop: asyncio.Event, limit: float, what: str
    ) -> DmrError | None:
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({task, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        if task.done():
            return task.result()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_GRACE)
        if not done:
            _log.error("the %s of %s does not end though it was cancelled", what, self._name)
        if stop.is_set():
            return BackendInstallError(f"the {what} of {self._name} was cancelled")
        return BackendInstallError(f"the {what} of {self._name} took longer than {limit:g} s and was cancelled")

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> DmrError | None:
        """A plugin's work: whatever it raises costs this piece of work alone."""
        try:
            await work
        except DmrError as exc:
            return exc
        except asyncio.CancelledError:
            return BackendInstallError(f"work on {self._name} was cancelled")
        except (Exception, SystemExit) as exc:
            _log.exception("work on %s failed", self._name)
            return BackendInstallError(f"{self._name} failed: {type(exc).__name__}: {exc}")
        return None

    async def _install(self, version: str | None) -> None:
        loop, mine = asyncio.get_running_loop(), self._stop

        def tell(what: str, share: float | None = None) -> None:
            if self._stop is mine:  # a run that was given up has no say
                self._post(events.Told(str(what), share))

        def progress(what: str, share: float | None) -> None:
            """May be called from a thread, where much of an installation happens."""
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                tell(what, share)
            else:
                loop.call_soon_threadsafe(tell, what, share)

        await self._engine.install(version, progress)

    async def _remove(self) -> None:
        if getattr(type(self._engine), "uninstall", None) is not Engine.uninstall:
            await self._release()  # in vain, were there nothing that could be removed
        await self._engine.uninstall()

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
