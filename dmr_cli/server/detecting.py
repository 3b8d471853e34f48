"""Asking the detectors, which are plugins, what accelerators there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from dmr_core.domain.acceleration import Accelerator, choose_accelerator
from dmr_core.domain.gpu import Detection
from dmr_core.plugins import PluginRegistry

__all__ = ["chosen", "detect"]

_TIMEOUT: Final = 20.0
"""Seconds: a guard against plugins. Ours give up earlier; eight GPUs that must be woken first do take seconds."""


async def detect(plugins: PluginRegistry, variants: Iterable[str]) -> tuple[Detection, ...]:
    """What these detectors see. A detector that raises or hangs is a plugin that failed, no more."""

    async def one(variant: str) -> Detection:
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await plugins.detectors[variant].factory().detect()
        except TimeoutError:
            return Detection(variant=variant, detail=f"no answer within {_TIMEOUT:g} s")
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as exc:  # a plugin's code, which may call sys.exit
            plugins.fail(variant, exc)
            return Detection(variant=variant, detail=f"{type(exc).__name__}: {exc}")

    found = await asyncio.gather(*(one(variant) for variant in variants))
    return tuple(sorted(found, key=lambda detection: detection.variant))


def chosen(plugins: PluginRegistry, detections: Iterable[Detection], override: str | None) -> Accelerator:
    """The accelerator engines are started for. Raises as :func:`choose_accelerator`."""
    priorities = {variant: spec.priority for variant, spec in plugins.detectors.items()}
    return choose_accelerator(detections, priorities, override)
