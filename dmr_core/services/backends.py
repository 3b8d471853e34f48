"""The engines there are, which of them can be used, and which one a model gets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final

import attrs

from dmr_core.domain.acceleration import EngineProgram
from dmr_core.domain.engine import BackendState, BackendStatus, EngineConfig, EngineMode
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import (
    BackendInstallError,
    BackendNotFoundError,
    BackendNotInstalledError,
    DmrError,
    InvalidConfigurationError,
    PluginError,
)
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_source import ModelSource
from dmr_core.services.installing.events import Phase, State
from dmr_core.services.installing.installer import Installer
from dmr_core.services.plugin_calls import guarded
from dmr_core.services.selection import DEFAULT_BACKEND, Backend, Candidate, Choice, platform_text, select, works_on

__all__ = ["DEFAULT_BACKEND", "Backend", "BackendService", "BackendView"]

_log: Final = logging.getLogger("dmr.backends")

_FRESH: Final = 1.0
_PATIENCE: Final = 0.5
_JUST_NOW: Final = 0.1
_LEFT: Final = 10.0
_REFERENCES: Final = ReferencePolicy()


@attrs.frozen(kw_only=True)
class BackendView:
    """A backend as people see it. ``state`` is what is known of its installation; ``next_step`` what to do about it."""

    backend: Backend
    here: bool
    status: BackendStatus
    state: State
    next_step: str
    retry_in: float = 0.0


class BackendService:
    """Every backend whose factory worked. Each has an installation of its own; see :class:`Installer`.

    ``platform`` is where we are, as ``sys.platform/machine``; empty means that every backend is taken to work.
    """

    def __init__(self, backends: Mapping[str, Backend], *, clock: Clock | None = None, platform: str = "") -> None:
        self._backends = dict(sorted(backends.items()))
        self._now = clock.monotonic if clock is not None else _loop_time
        self._platform = platform
        self._watchers: list[Callable[[], None]] = []
        self._release: Callable[[str], Awaitable[None]] | None = None
        self._installers = {name: self._installer(backend) for name, backend in self._backends.items()}

    @classmethod
    def build(
        cls,
        specs: Mapping[str, BackendSpec],
        context: Callable[[BackendSpec], EngineContext],
        failed: Callable[[str, BaseException], None],
        *,
        clock: Clock | None = None,
        platform: str = "",
    ) -> tuple[BackendService, tuple[ModelSource, ...]]:
        """Make every engine; a factory that raises is reported to ``failed`` and left out.

        Raises:
            InvalidConfigurationError: a variable the backend is configured by has a value it refuses.
        """
        backends: dict[str, Backend] = {}
        sources: list[ModelSource] = []
        for spec in specs.values():
            # A factory is a plugin's code: whatever it raises, SystemExit included, costs that plugin alone.
            try:
                made = context(spec)
                engine = spec.factory(made)
                source = spec.model_source(made) if spec.model_source else None
            except (KeyboardInterrupt, InvalidConfigurationError):
                raise  # the latter is the operator's: to start without what they set would surprise them later
            except BaseException as exc:
                _log.warning("backend %s cannot be used: %r", spec.name, exc)
                failed(spec.name, exc)
                continue
            backends[spec.name] = Backend(spec, engine)
            if source is not None:
                sources.append(source)
        return cls(backends, clock=clock, platform=platform), tuple(sources)

    def protect(self, release: Callable[[str], Awaitable[None]]) -> None:
        """Before a removal call ``release`` with the backend's name: it unloads idle runners, or raises for a busy one."""
        self._release = release

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever a choice made before may come out differently."""
        self._watchers.append(changed)

    def leave(self) -> None:
        """The service ends: engines that can go on without it may be left running."""
        for backend in self._backends.values():
            try:
                backend.engine.leave()
            except Exception:  # a plugin's code; what it could not leave is stopped
                _log.exception("%s failed to prepare for the end", backend.name)

    async def left_running(self) -> tuple[str, ...]:
        """Names of models that engines of an earlier service still serve."""
        found: list[str] = []
        for backend in self._backends.values():
            try:
                found += await guarded(backend.engine.left_running, f"{backend.name}: left_running()", timeout=_LEFT)
            except DmrError as exc:
                _log.warning("%s", exc.message)
        return tuple(found)

    async def aclose(self) -> None:
        """Answer whoever waits, cancel every installation, and return once they have stopped."""
        await asyncio.gather(*(installer.aclose() for installer in self._installers.values()))

    # --- looking

    def get(self, name: str) -> Backend:
        """The backend of this name.

        Raises:
            BackendNotFoundError: there is none.
        """
        try:
            return self._backends[name]
        except KeyError:
            raise BackendNotFoundError(name) from None

    def program(self, name: str) -> EngineProgram | None:
        """The program a backend's engines are, as last seen; ``None`` where that is not known."""
        return self._installers[self.get(name).name].state.status.program

    async def refresh(self) -> None:
        """Look again which engines are installed; choosing goes by what was seen last."""
        await asyncio.gather(*(self._installers[name].look() for name in self._backends if self._here(name)))

    async def look(self, name: str) -> None:
        """Look again whether one engine is installed, for a request that failed because it was not; soon, or not at all."""
        installer = self._installers.get(name)
        if installer is None or not self._here(name) or installer.fresh(_JUST_NOW):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await installer.look()

    async def statuses(self) -> dict[str, BackendStatus]:
        """Status of every backend, by name; none older than a second, but for those slow to say how they are."""
        looks = [
            asyncio.ensure_future(installer.look())
            for name, installer in self._installers.items()
            if self._here(name) and not installer.fresh(_FRESH)
        ]
        if looks:
            _, slow = await asyncio.wait(looks, timeout=_PATIENCE)
            for look in slow:  # the look itself goes on; only our wait for it ends
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
        return {name: self._status(name) for name in self._backends}

    async def views(self) -> tuple[BackendView, ...]:
        """Every backend, by name, with what there is to do about it."""
        statuses = await self.statuses()
        return tuple(self._view(name, status) for name, status in statuses.items())

    def choose(
        self,
        model: Model,
        mode: EngineMode,
        requested: str | None,
        *,
        lenient: bool = False,
        config: EngineConfig | None = None,
    ) -> Choice:
        """Who serves ``model``, and why; see :func:`~dmr_core.services.selection.select`.

        ``lenient`` makes a request for one backend a preference. With ``config``, only those that honour it.

        Raises:
            BackendNotFoundError: the one asked for does not exist.
            UnsupportedFormatError: nobody, or not the one asked for, can serve it.
            InvalidConfigurationError: all that could refuse the settings.
            BackendNotInstalledError: somebody could, were it installed.
        """
        asked = self._candidate(self.get(requested), model, config) if requested is not None else None
        return select(
            [self._candidate(backend, model, config) for backend in self._backends.values()],
            model=model.name,
            format=model.format,
            mode=mode,
            requested=asked,
            lenient=lenient,
        )

    # --- installing

    async def ready(self, name: str) -> None:
        """Return once engines of this backend may be started; at once when it is installed.

        Raises:
            BackendNotInstalledError: it is not, and is not installed on demand.
            BackendInstallError: installing it failed.
        """
        installer = self._installers[self.get(name).name]
        if installer.state.usable:
            return
        if not self._obtainable(name):
            raise BackendNotInstalledError(name, self._remedy(name))
        try:
            await installer.install(on_demand=True)
        except BackendInstallError as exc:
            raise BackendInstallError(
                f"backend installation failed: {exc.message}", retry_after=exc.retry_after
            ) from exc

    async def install(self, name: str, version: str | None = None) -> None:
        """Install a backend's engine, in ``version`` or in any, and return when that is done.

        Raises:
            BackendNotFoundError, and as for :meth:`Installer.install`.
        """
        self._check_platform(name)
        await self._installers[name].install(version)

    def install_lines(self, name: str, version: str | None = None) -> AsyncGenerator[Progress, None]:
        """As :meth:`install`, as lines of progress, the last of them a success. Closing it ends no installation.

        Raises (at once): BackendNotFoundError; the rest while iterating.
        """
        self._check_platform(name)
        return self._lines(name, version)

    async def uninstall(self, name: str) -> None:
        """Unload a backend's idle runners and remove what was installed.

        Raises:
            BackendNotFoundError, and as for :meth:`Installer.uninstall`.
        """
        await self._installers[self.get(name).name].uninstall()

    async def _lines(self, name: str, version: str | None) -> AsyncGenerator[Progress, None]:
        async for what, share in self._installers[name].follow(version):
            yield Progress(kind=ProgressKind.PROGRESS, message=what, mode=TransferMode.INSTALL, share=share)
        done = f"{name} backend installed successfully"
        yield Progress(kind=ProgressKind.SUCCESS, message=done, mode=TransferMode.INSTALL)

    # --- details

    def _installer(self, backend: Backend) -> Installer:
        async def release() -> None:
            if self._release is not None:
                await self._release(backend.name)

        return Installer(backend.name, backend.engine, now=self._now, changed=self._tell, release=release)

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def _here(self, name: str) -> bool:
        return works_on(self._backends[name].spec, self._platform)

    def _check_platform(self, name: str) -> None:
        spec = self.get(name).spec
        if not self._here(name):
            raise BackendInstallError(f"{name} is only supported on {platform_text(spec.platforms)}")

    def _status(self, name: str) -> BackendStatus:
        if not self._here(name):
            where = platform_text(self._backends[name].spec.platforms)
            return BackendStatus(BackendState.NOT_INSTALLED, f"only supported on {where}")
        return self._installers[name].status()

    def _obtainable(self, name: str) -> bool:
        """Whether a request for it need not fail though it is not there: it is, or may be, installed meanwhile."""
        return self._backends[name].spec.installs or self._installers[name].state.phase is Phase.INSTALLING

    def _candidate(self, backend: Backend, model: Model, config: EngineConfig | None) -> Candidate:
        return Candidate(
            backend=backend,
            here=self._here(backend.name),
            usable=self._installers[backend.name].state.usable,
            obtainable=self._obtainable(backend.name),
            claims=model.backend == backend.name if model.backend else _claims(backend, model),
            keeper=model.backend if model.backend != backend.name else "",
            refusal=_refusal(backend, config) if config is not None else None,
            remedy=self._remedy(backend.name),
        )

    def _view(self, name: str, status: BackendStatus) -> BackendView:
        state = self._installers[name].state
        failed = state.phase is Phase.FAILED
        return BackendView(
            backend=self._backends[name],
            here=self._here(name),
            status=status,
            state=state,
            next_step=self._next_step(name) if self._here(name) and not state.usable and not state.working else "",
            retry_in=max(0.0, state.retry_at - self._now()) if failed else 0.0,
        )

    def _next_step(self, name: str) -> str:
        """What to do about an engine that is not there, if anybody knows."""
        backend = self._backends[name]
        if backend.spec.remedy or not Installer.installs(backend.engine):
            return backend.spec.remedy
        return f"`dmr backend install {name}` installs it"

    def _remedy(self, name: str) -> str:
        """The same for an error, which must say something: else what the engine itself says is missing."""
        missing = self._installers[name].state.status.detail
        return self._next_step(name) or missing or "run `dmr status` for what is missing"


def _claims(backend: Backend, model: Model) -> bool:
    try:
        return any(backend.spec.claims(parse_reference(tag, _REFERENCES)) for tag in model.tags)
    except Exception:  # a plugin's code; what it cannot answer it does not claim
        _log.exception("%s cannot tell whether it claims %s", backend.name, model.name)
        return False


def _refusal(backend: Backend, config: EngineConfig) -> DmrError | None:
    try:
        backend.engine.check(config)
    except DmrError as exc:
        return exc
    except Exception as exc:  # a plugin's code; it costs that backend alone
        _log.exception("%s cannot tell whether it takes the settings", backend.name)
        return PluginError(f"{backend.name} failed to check the settings: {type(exc).__name__}: {exc}")
    return None


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
