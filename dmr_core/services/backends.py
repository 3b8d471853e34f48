"""The engines there are, which of them can be used, and which one a model gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from dmr_core.domain.engine import BackendState, BackendStatus, EngineMode
from dmr_core.domain.model import Model
from dmr_core.errors import BackendNotFoundError, BackendNotInstalledError, UnsupportedFormatError
from dmr_core.ports.backend import BackendSpec, EngineContext
from dmr_core.ports.engine import Engine
from dmr_core.ports.model_source import ModelSource

__all__ = ["DEFAULT_BACKEND", "Backend", "BackendService"]

_log: Final = logging.getLogger("dmr.backends")

DEFAULT_BACKEND: Final = "llama.cpp"
"""Who serves a model that no backend claims by its format."""

_STATUS_TIMEOUT: Final = 5.0


@attrs.frozen
class Backend:
    """A spec, and the engine its factory made."""

    spec: BackendSpec
    engine: Engine

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.spec.name


class BackendService:
    """Every backend whose factory worked."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = dict(sorted(backends.items()))
        self._installed: dict[str, bool] = {}

    @classmethod
    def build(
        cls,
        specs: Mapping[str, BackendSpec],
        context: Callable[[BackendSpec], EngineContext],
        failed: Callable[[str, BaseException], None],
    ) -> tuple[BackendService, tuple[ModelSource, ...]]:
        """Make every engine; a factory that raises is reported to ``failed`` and left out."""
        backends: dict[str, Backend] = {}
        sources: list[ModelSource] = []
        for spec in specs.values():
            # A factory is a plugin's code: whatever it raises, SystemExit included, costs that plugin alone.
            try:
                made = context(spec)
                engine = spec.factory(made)
                source = spec.model_source(made) if spec.model_source else None
            except KeyboardInterrupt:
                raise
            except BaseException as exc:
                _log.warning("backend %s cannot be used: %r", spec.name, exc)
                failed(spec.name, exc)
                continue
            backends[spec.name] = Backend(spec, engine)
            if source is not None:
                sources.append(source)
        return cls(backends), tuple(sources)

    def get(self, name: str) -> Backend:
        """The backend of this name.

        Raises:
            BackendNotFoundError: there is none.
        """
        try:
            return self._backends[name]
        except KeyError:
            raise BackendNotFoundError(name) from None

    async def refresh(self) -> None:
        """Look again which engines are installed; choosing goes by what was seen last."""
        await self.statuses()

    async def statuses(self) -> dict[str, BackendStatus]:
        """Status of every backend, by name."""
        names = list(self._backends)
        found = await asyncio.gather(*(self._status(self._backends[name]) for name in names))
        return dict(zip(names, found, strict=True))

    def choose(self, model: Model, mode: EngineMode, requested: str | None) -> Backend:
        """Who serves ``model``: the one asked for, if it reads the format, else the best that does and is installed.

        Falling back when the one asked for cannot read the model is the reference's behaviour, and its clients rely
        on it: they send every model to one backend's path.

        Raises:
            BackendNotFoundError: the one asked for does not exist.
            UnsupportedFormatError: nobody reads the format, or those who do cannot work in this mode.
            BackendNotInstalledError: somebody could, were it installed.
        """
        if requested is not None:
            backend = self.get(requested)
            if self._reads(backend, model) and mode in backend.spec.modes:
                return backend
        able = [backend for backend in self._backends.values() if self._reads(backend, model)]
        if not able:
            what = model.format.value if model.format else "unknown"
            raise UnsupportedFormatError(
                f"no backend can serve {model.name!r}: its format is {what!r}; install a plugin that reads it"
            )
        fitting = [backend for backend in able if mode in backend.spec.modes]
        if not fitting:
            raise UnsupportedFormatError(f"no backend can serve {model.name!r} in mode {mode.value!r}")
        installed = [backend for backend in fitting if self._installed.get(backend.name, True)]
        if not installed:
            raise BackendNotInstalledError(fitting[0].name, "run `dmr status` for what is missing")
        return min(installed, key=lambda backend: (-backend.spec.priority, backend.name))

    def _reads(self, backend: Backend, model: Model) -> bool:
        formats = backend.spec.formats
        if model.format is None:
            return not formats or backend.name == DEFAULT_BACKEND
        return model.format in formats

    async def _status(self, backend: Backend) -> BackendStatus:
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT):
                status = await backend.engine.status()
        except TimeoutError:
            status = BackendStatus(BackendState.ERROR, f"no answer within {_STATUS_TIMEOUT:g} s")
        except (Exception, SystemExit) as exc:  # a plugin's code again
            status = BackendStatus(BackendState.ERROR, f"{type(exc).__name__}: {exc}")
        self._installed[backend.name] = status.state is BackendState.RUNNING
        return status
