"""Which accelerator engines are to use, where a model is required to compute, and where it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import attrs

from dmr_core.domain.gpu import CPU, Detection, GpuDevice
from dmr_core.errors import InvalidConfigurationError

__all__ = ["Accelerator", "EngineProgram", "GpuRequirement", "Placement", "choose_accelerator"]


class GpuRequirement(StrEnum):
    """Where a model must compute: anywhere, at least partly on an accelerator, or with every layer on one."""

    NONE = "none"
    GPU = "gpu"
    ALL_LAYERS = "all-layers"

    @classmethod
    def parse(cls, value: object) -> GpuRequirement:
        """Read a requirement from anybody's JSON.

        Raises:
            InvalidConfigurationError: names those there are.
        """
        for known in cls:
            if value == known.value:
                return known
        names = ", ".join(repr(known.value) for known in cls)
        raise InvalidConfigurationError(f"require is {value!r:.100}: use one of {names}", param="require")


@attrs.frozen(kw_only=True)
class Placement:
    """Where an engine says that it put a model.

    ``devices`` are accelerators by the engine's names for them, none on the CPU. ``layers`` of ``total_layers`` are on them,
    both ``None`` where the engine does not count. ``cause`` and ``remedy`` say why it is (partly) on the CPU and what to do,
    as far as the engine tells; ``chosen`` that its settings ask for that. ``evidence`` are the lines that say so.
    """

    devices: tuple[str, ...] = ()
    layers: int | None = None
    total_layers: int | None = None
    cause: str = ""
    remedy: str = ""
    chosen: bool = False
    evidence: tuple[str, ...] = ()

    @property
    def accelerated(self) -> bool:
        """Whether any of it is on an accelerator."""
        return bool(self.devices) and self.layers != 0

    def meets(self, requirement: GpuRequirement) -> bool:
        """Whether it is as ``requirement`` wants it. An engine that does not count layers cannot promise all of them."""
        match requirement:
            case GpuRequirement.NONE:
                return True
            case GpuRequirement.GPU:
                return self.accelerated
            case GpuRequirement.ALL_LAYERS:
                return self.accelerated and self.layers is not None and self.layers == self.total_layers

    def __str__(self) -> str:
        where = ", ".join(self.devices) if self.accelerated else "CPU"
        if self.layers is None or not self.accelerated:
            return where
        return f"{where} ({self.layers} of {self.total_layers} layers)"


@attrs.frozen(kw_only=True)
class Accelerator:
    """The accelerator engines are started for. ``forced`` says that the operator chose it, ``reason`` why it is this one."""

    variant: str = CPU
    devices: tuple[GpuDevice, ...] = ()
    forced: bool = False
    reason: str = ""

    @property
    def present(self) -> bool:
        """Whether a device that is no processor can be used."""
        return self.variant != CPU and bool(self.devices)

    @property
    def names(self) -> str:
        """The devices, for people: ``2 x NVIDIA H100``."""
        counts: dict[str, int] = {}
        for device in self.devices:
            counts[device.name] = counts.get(device.name, 0) + 1
        return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


@attrs.frozen(kw_only=True)
class EngineProgram:
    """The program an engine is: its ``path``, what it was built for (a variant, empty where unknown), and why this one."""

    path: str
    variant: str = ""
    reason: str = ""


def choose_accelerator(
    detections: Iterable[Detection], priorities: Mapping[str, int], override: str | None = None
) -> Accelerator:
    """The operator's choice (``DMR_OVERRIDE_GPU``), else that of the highest priority that has a device.

    ``priorities`` has the detectors that work, by variant.

    Raises:
        InvalidConfigurationError: the operator chose a variant that nobody detects.
    """
    seen = {found.variant: found for found in detections}
    if override:
        if override not in seen:
            known = ", ".join(sorted(seen))
            raise InvalidConfigurationError(f"DMR_OVERRIDE_GPU={override!r}: use one of {known}")
        found = seen[override]
        reason = f"DMR_OVERRIDE_GPU={override}"
        if not found.present:
            reason += f", although its detector saw no device: {found.detail}"
        return Accelerator(variant=override, devices=found.devices, forced=True, reason=reason)
    present = [found for found in seen.values() if found.present and found.variant in priorities]
    if not present:
        return Accelerator(reason="no detector saw a device; `dmr plugins` says why")
    best = max(present, key=lambda found: (priorities[found.variant], found.variant))
    others = sorted(found.variant for found in present if found.variant not in (best.variant, CPU))
    if best.variant == CPU:
        reason = "no accelerator was detected; `dmr plugins` says what was looked for"
    elif others:
        reason = f"detected, and preferred to {', '.join(others)}; DMR_OVERRIDE_GPU chooses another"
    else:
        reason = "detected"
    return Accelerator(variant=best.variant, devices=best.devices, reason=reason)
