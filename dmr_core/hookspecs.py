"""The hooks a plugin implements.

A plugin is any distribution with an entry point in the group ``dmr`` that names a module or object::

    [project.entry-points.dmr]
    echo = "dmr_backend_echo.plugin"

whose functions are marked with :data:`hookimpl`. Hooks return data and have no side effects: no
probing, no processes, no files. A hook that raises costs its own plugin and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pluggy

from dmr_core.ports.backend import BackendSpec, DetectorSpec

__all__ = ["PROJECT", "HookSpecs", "hookimpl", "hookspec"]

PROJECT: Final = "dmr"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """Every hook there is."""

    @hookspec
    def dmr_backends(self) -> Iterable[BackendSpec]:
        """Backends this plugin provides.

        Example::

            from dmr_core.hookspecs import hookimpl
            from dmr_core.ports.backend import BackendSpec

            @hookimpl
            def dmr_backends():
                yield BackendSpec(name="echo", summary="Repeats what it is told", factory=EchoEngine)
        """
        return ()

    @hookspec
    def dmr_gpu_detectors(self) -> Iterable[DetectorSpec]:
        """Accelerator detectors this plugin provides.

        Example::

            from dmr_core.hookspecs import hookimpl
            from dmr_core.ports.backend import DetectorSpec

            @hookimpl
            def dmr_gpu_detectors():
                yield DetectorSpec(variant="tpu", summary="Tensor units", factory=TpuDetector)
        """
        return ()
