"""Where vLLM says that it put a model: on the device it was started for, with all its layers, or on the CPU."""

from __future__ import annotations

import re
from typing import Final

from dmr_core.domain.acceleration import Placement

__all__ = ["read_placement"]

_DEVICE: Final = re.compile(r"\bdevice_config=(?P<device>[a-z]{1,32})")
_CPU: Final = "cpu"


def read_placement(output: str, *, layers: int, offloaded: bool) -> Placement | None:
    """What ``output`` tells of a model with ``layers`` (0 when that is not known); ``None`` before it tells.

    ``offloaded`` says that the operator has it keep a part in the memory of the host (``--cpu-offload-gb``).
    """
    found = _DEVICE.search(output)
    if found is None:
        return None
    evidence = (f"device_config={found['device']}",)
    if found["device"] == _CPU:
        return Placement(
            cause="this vLLM was built for processors, or finds no accelerator",
            remedy="Install vLLM for the accelerator and let VLLM_SERVER_PATH name its `vllm` program.",
            evidence=evidence,
        )
    known = layers or None if not offloaded else None
    return Placement(devices=(found["device"],), layers=known, total_layers=known, evidence=evidence)
