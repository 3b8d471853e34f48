"""Finding plugins, each on its own: a broken one costs one line in a list, never the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

import attrs
import pluggy

from dmr_core.errors import PluginError, PluginLoadError
from dmr_core.hookspecs import PROJECT, HookSpecs
from dmr_core.ports.backend import BackendSpec, DetectorSpec

__all__ = ["PluginInfo", "PluginRegistry", "PluginState", "installed_entry_points"]

_Spec = TypeVar("_Spec", BackendSpec, DetectorSpec)
_MAX_ERROR: Final = 300


class PluginState(StrEnum):
    """Whether a plugin can be used."""

    OK = "ok"
    ERROR = "error"
    DISABLED = "disabled"


@attrs.frozen(kw_only=True)
class PluginInfo:
    """One line of ``dmr plugins``."""

    name: str
    distribution: str
    version: str
    state: PluginState
    provides: tuple[str, ...] = ()
    error: str = ""


def installed_entry_points() -> tuple[EntryPoint, ...]:
    """Every entry point of the group ``dmr``, by name and then distribution.

    Entry points of one name in two distributions are all kept: which of them wins is decided by
    their specs, not by who was installed first.
    """
    found = entry_points(group=PROJECT)
    return tuple(sorted(found, key=lambda point: (point.name, _distribution(point)[0])))


@attrs.define
class PluginRegistry:
    """The plugins that were found, and the specs of those that work.

    Plugins are asked in the order given, so where two register the same backend name the first keeps
    it and the second is reported.
    """

    backends: dict[str, BackendSpec] = attrs.field(factory=dict)
    detectors: dict[str, DetectorSpec] = attrs.field(factory=dict)
    _infos: list[PluginInfo] = attrs.field(factory=list)
    _owners: dict[str, int] = attrs.field(factory=dict)

    @classmethod
    def discover(cls, points: Iterable[EntryPoint], disabled: frozenset[str] = frozenset()) -> PluginRegistry:
        """Load every entry point that is not disabled. Never raises for what a plugin does."""
        registry = cls()
        for point in points:
            registry._load(point, disabled)
        return registry

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plugin, healthy or not."""
        return tuple(self._infos)

    def fail(self, spec_name: str, error: BaseException) -> None:
        """Record that building a spec failed: its backend or detector is gone, its plugin marked."""
        self.backends.pop(spec_name, None)
        self.detectors.pop(spec_name, None)
        position = self._owners.get(spec_name)
        if position is None:  # handed in by an embedder, not found as a plugin
            return
        info = self._infos[position]
        self._infos[position] = attrs.evolve(
            info,
            state=PluginState.ERROR,
            provides=tuple(name for name in info.provides if name != spec_name),
            error=_one_line(f"{spec_name}: {_describe(error)}"),
        )

    def _load(self, point: EntryPoint, disabled: frozenset[str]) -> None:
        distribution, version = _distribution(point)
        info = PluginInfo(name=point.name, distribution=distribution, version=version, state=PluginState.OK)
        if point.name in disabled or distribution in disabled:
            self._infos.append(attrs.evolve(info, state=PluginState.DISABLED))
            return
        # A plugin is somebody else's code: it may raise anything, SystemExit included. Only an
        # interrupt from the keyboard is not its own.
        try:
            backends, detectors = _specs(point)
            self._check_names(backends, detectors)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            self._infos.append(attrs.evolve(info, state=PluginState.ERROR, error=_one_line(_describe(exc))))
            return
        for backend in backends:
            self.backends[backend.name] = backend
        for detector in detectors:
            self.detectors[detector.variant] = detector
        names = (*(backend.name for backend in backends), *(detector.variant for detector in detectors))
        self._owners.update(dict.fromkeys(names, len(self._infos)))
        self._infos.append(attrs.evolve(info, provides=names))

    def _check_names(self, backends: list[BackendSpec], detectors: list[DetectorSpec]) -> None:
        seen: set[str] = set()
        for name in (*(spec.name for spec in backends), *(spec.variant for spec in detectors)):
            if name in seen:
                raise PluginLoadError(f"the name {name!r} is registered twice by this plugin")
            if name in self._owners:
                owner = self._infos[self._owners[name]]
                raise PluginLoadError(f"the name {name!r} is already taken by plugin {owner.name!r}")
            seen.add(name)


def _specs(point: EntryPoint) -> tuple[list[BackendSpec], list[DetectorSpec]]:
    """Load one plugin in a manager of its own, so that nothing it registers can touch another."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(point.load(), point.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as exc:
        raise PluginLoadError(str(exc).partition(" in plugin")[0]) from exc  # the rest is a path of this machine
    return _call(manager.hook.dmr_backends, BackendSpec), _call(manager.hook.dmr_gpu_detectors, DetectorSpec)


def _call(hook: Callable[[], Any], kind: type[_Spec]) -> list[_Spec]:
    found: list[_Spec] = []
    for result in hook():
        for spec in result or ():
            if not isinstance(spec, kind):
                raise PluginError(f"a hook gave a {type(spec).__name__} where a {kind.__name__} is wanted: {spec!r}")
            found.append(spec)
    return found


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    return error.message if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_ERROR else line[: _MAX_ERROR - 1] + "…"
