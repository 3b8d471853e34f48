"""Whether a model computes where it is required to, and why it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from dmr_core.domain.acceleration import Accelerator, EngineProgram, GpuRequirement, Placement
from dmr_core.domain.gpu import CPU, Detection
from dmr_core.errors import AcceleratorMissingError, EngineNotAcceleratedError

__all__ = ["AccelerationService"]

_OVERRIDE: Final = "DMR_OVERRIDE_GPU"
_PATIENCE: Final = 5.0
"""Seconds that a model which needs no accelerator waits for the reason why it has none."""


@attrs.frozen(kw_only=True)
class AccelerationService:
    """Compares what is required with what there is, before a start, and with what an engine reports, after it.

    ``detections`` are what was seen when the service started; ``look`` sees the accelerator's devices as they are now:
    a GPU may be gone since (suspended, fallen off the bus, taken from the container).
    """

    accelerator: Accelerator = attrs.field(factory=Accelerator)
    detections: tuple[Detection, ...] = ()
    look: Callable[[], Awaitable[tuple[Detection, ...]]] | None = None

    def admit(self, name: str, requirement: GpuRequirement | None, backend: str, program: EngineProgram | None) -> None:
        """Refuse to start an engine that could not compute where it must.

        Raises:
            AcceleratorMissingError: there is no device, or the operator keeps engines off it.
            EngineNotAcceleratedError: the engine's ``program`` is built for the CPU.
        """
        if requirement in (None, GpuRequirement.NONE):
            return
        wants = f"{name!r} requires a GPU (require: {requirement})"
        give_up = f"`dmr configure --require none {name}` lets it run on the CPU."
        if self.accelerator.variant == CPU:
            if self.accelerator.forced:
                raise AcceleratorMissingError(
                    f"{wants}, and {_OVERRIDE}={CPU} keeps every model on the CPU. Unset it and start the service again; {give_up}"
                )
            seen = " ".join(found.detail for found in self.detections if found.variant != CPU and found.detail)
            raise AcceleratorMissingError(
                f"{wants}, and there is none that can be used. {seen or 'No detector is installed.'} "
                f"`dmr plugins` shows what was looked at; {give_up}"
            )
        if program is not None and program.variant == CPU:
            raise EngineNotAcceleratedError(
                backend,
                None,
                cause=f"{wants}, there is {self._there()}, and {backend} cannot use it: {program.reason or program.path}",
                remedy=f"Install a build for {self.accelerator.variant} (`dmr status` shows which one is used); {give_up}",
            )

    async def verify(
        self, name: str, requirement: GpuRequirement | None, backend: str, placement: Placement | None
    ) -> str:
        """What people are warned of about an engine that is ready; empty if it computes where it should.

        Raises:
            EngineNotAcceleratedError: it does not compute where it must, or nobody can tell; the cause is the best known.
        """
        if requirement in (None, GpuRequirement.NONE):
            if placement is None or placement.accelerated or placement.chosen or not self.accelerator.present:
                return ""
            cause, remedy = await self._diagnosis(placement, _PATIENCE)
            return f"{backend} computes on the CPU although there is {self._there()}: {cause}. {remedy}".strip()
        if placement is not None and placement.meets(requirement):
            return ""
        give_up = f"`dmr configure --require none {name}` lets it run on the CPU."
        wants = f"{name!r} requires a GPU (require: {requirement})"
        if placement is None:
            raise EngineNotAcceleratedError(
                backend,
                None,
                cause=f"{wants}, and {backend} does not tell where it computes, so nobody can promise it",
                remedy=give_up,
            )
        cause, remedy = await self._diagnosis(placement, None)
        raise EngineNotAcceleratedError(
            backend,
            None,
            "\n".join(placement.evidence),
            cause=f"{wants}, and {backend} {_where(placement)}: {cause}",
            remedy=f"{remedy} Or: {give_up}" if remedy else give_up,
        )

    async def _diagnosis(self, placement: Placement, patience: float | None) -> tuple[str, str]:
        """Cause and remedy: the engine's own words, else what the detector sees now."""
        if placement.cause:
            return placement.cause, placement.remedy
        if placement.chosen:
            return "its settings ask for that", "Take `-ngl`, `--device` and the like out of them."
        if placement.accelerated and placement.total_layers is None:
            return "it does not tell how many layers are there", "Require `gpu` instead of `all-layers`."
        if placement.accelerated:
            return (
                "the rest did not fit into the accelerator's memory, or its flags limit it",
                "Use a smaller quantisation or context size, unload other models, or require `gpu` instead of `all-layers`.",
            )
        for found in await self._look(patience):
            if found.variant == self.accelerator.variant and found.detail:
                return f"the detector says now: {found.detail.rstrip('.')}", ""
        return (
            f"it was probably not built for {self.accelerator.variant}, or cannot load a library it needs",
            "Its log (`dmr logs`) may tell; `dmr status` shows which program it is.",
        )

    async def _look(self, patience: float | None) -> tuple[Detection, ...]:
        if self.look is None:
            return self.detections
        try:
            async with asyncio.timeout(patience):
                return await self.look()
        except TimeoutError:
            return ()

    def _there(self) -> str:
        return f"{self.accelerator.names or 'one'} ({self.accelerator.variant})"


def _where(placement: Placement) -> str:
    if not placement.accelerated:
        return "put it on the CPU"
    if placement.layers is None:
        return f"put it on {placement}"
    return f"put {placement.layers} of {placement.total_layers} layers on {', '.join(placement.devices)}"
