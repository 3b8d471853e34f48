"""What a plugin hands over: typed specs, whose factories take and return ports."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs

from dmr_core.domain.artifact import Format
from dmr_core.domain.capability import Capabilities, Dialect
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.flags import FlagTable
from dmr_core.domain.gpu import GpuDevice
from dmr_core.domain.reference import Reference
from dmr_core.domain.secret import Login
from dmr_core.errors import PluginError
from dmr_core.ports.engine import Engine
from dmr_core.ports.gpu import GpuDetector
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.process import ProcessSupervisor

__all__ = ["BackendSpec", "DetectorSpec", "EngineContext"]

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,30}[a-z0-9])?")


async def _knows_no_login(_registry: str) -> Login | None:
    return None


def _claims_nothing(_reference: Reference) -> bool:
    return False


def _check_name(_instance: object, _attribute: object, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise PluginError(
            f"invalid plugin spec name {value!r}: use 1 to 32 lower-case letters, digits, '.', '_' and '-', "
            "beginning and ending with a letter or digit"
        )


@attrs.frozen(kw_only=True)
class EngineContext:
    """What an engine is built with: the ports it may use, and the settings that are its own.

    ``environment`` holds only the variables the backend's spec names; ``variant`` is the accelerator
    to use (``cpu``, ``cuda`` …), ``devices`` what was seen of it when the service started, and ``forced`` says that the
    operator chose it. ``login`` finds what this machine logs in to a registry with, if anything; it does not raise.
    """

    processes: ProcessSupervisor
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    variant: str = "cpu"
    devices: tuple[GpuDevice, ...] = ()
    forced: bool = False
    login: Callable[[str], Awaitable[Login | None]] = _knows_no_login


@attrs.frozen(kw_only=True)
class BackendSpec:
    """A backend, as its plugin describes it. Building the spec has no side effect; ``factory`` does the work.

    ``name`` is the path segment in ``/engines/NAME/v1``. Where several backends can serve a format,
    the highest ``priority`` that is installed wins, then the name. ``environment`` names the variables the engine
    is configured by; it sees no others. ``claims`` and ``model_source`` are for models that do not live in the store.
    ``platforms`` are where the engine works, as ``sys.platform`` or ``sys.platform/machine`` (``linux``,
    ``darwin/arm64``); none means everywhere. ``installs`` lets the first request that needs the engine install it;
    ``lacks`` are routes below ``/v1`` of a mode it claims that its engine does not have, as ``/score``; who asks for one is
    told so. ``remedy`` says in a sentence what to do where it is missing and nobody installs it. ``flags`` gives the table of the raw flags the engine
    takes; called when it is needed, so that discovery stays cheap. ``dialects`` are the forms of requests the engine
    understands itself; others are translated for it. ``capabilities`` tells which fields of a request it honours, so that
    clients hear which it does not; without it they hear nothing. ``reads_data_alone`` says that the engine runs no code
    of a model whatever its files hold; for all others models are looked through first.

    Example::

        BackendSpec(
            name="echo",
            summary="Repeats what it is told",
            formats=frozenset({Format.GGUF}),
            factory=lambda context: EchoEngine(context.processes),
        )
    """

    name: str = attrs.field(validator=_check_name)
    summary: str
    factory: Callable[[EngineContext], Engine]
    formats: frozenset[Format] = frozenset()
    modes: frozenset[EngineMode] = frozenset({EngineMode.COMPLETION})
    lacks: frozenset[str] = frozenset()
    priority: int = 0
    environment: tuple[str, ...] = ()
    section: str | None = None
    platforms: frozenset[str] = frozenset()
    installs: bool = False
    remedy: str = ""
    flags: Callable[[], FlagTable] | None = None
    dialects: frozenset[Dialect] = frozenset({Dialect.OPENAI})
    capabilities: Callable[[], Capabilities] | None = None
    reads_data_alone: bool = False
    claims: Callable[[Reference], bool] = _claims_nothing
    model_source: Callable[[EngineContext], ModelSource] | None = None


@attrs.frozen(kw_only=True)
class DetectorSpec:
    """A detector of one accelerator variant. The highest ``priority`` that finds a device wins.

    Example::

        DetectorSpec(variant="cuda", summary="NVIDIA GPUs", priority=40, factory=CudaDetector)
    """

    variant: str = attrs.field(validator=_check_name)
    summary: str
    factory: Callable[[], GpuDetector]
    priority: int = 0
