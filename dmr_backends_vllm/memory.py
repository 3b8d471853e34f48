"""How much memory vLLM will need for a model, before any of its files is unpacked.

On an accelerator vLLM takes whatever share of it it was given (``--gpu-memory-utilization``), however small the model. How
much that is, nobody tells an engine beforehand, so this says the least: without room for the weights it cannot start.
"""

from __future__ import annotations

from typing import Final

from dmr_core.domain.artifact import LayerType
from dmr_core.domain.gpu import CPU
from dmr_core.domain.memory import Memory
from dmr_core.ports.engine import MemoryRequest

__all__ = ["estimate"]

_HOST_BASE: Final = 2 * 1024**3
"""The server and its workers beside an accelerator. An order of magnitude, not measured here; what is seen replaces it."""

_CPU_BASE: Final = 4 * 1024**3
"""On a processor: 3.0 GB of three processes with PyTorch (vLLM 0.32, measured), and the least cache, 1 GiB."""

_WEIGHTS: Final = frozenset({LayerType.SAFETENSORS, LayerType.PACK_WEIGHT_SAFETENSORS})


def estimate(request: MemoryRequest, variant: str) -> Memory | None:
    """What a server on this kind of accelerator will need, or on a processor, where weights and cache are in its memory."""
    models = [request.model] if request.draft is None else [request.model, request.draft]
    weights = sum(
        max(0, layer.size) for model in models for layer in model.manifest.layers if layer.media_type in _WEIGHTS
    )
    return Memory(_CPU_BASE + weights) if variant == CPU else Memory(_HOST_BASE, weights)
