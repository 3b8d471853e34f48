"""Where a model's weights are expected to be, and how much room they take there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_backends_vllm.engine import VllmEngine
from dmr_core.domain.artifact import Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.memory import Memory
from dmr_core.domain.model import Model
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import MemoryRequest
from dmr_core.testing.fakes.process import FakeProcessSupervisor

GIB = 1 << 30
ANY = Digest.of(b"anything")


def model(*sizes: int) -> Model:
    layers = tuple(Descriptor(media_type=LayerType.SAFETENSORS, digest=ANY, size=size) for size in sizes)
    text = Descriptor(media_type=LayerType.LICENSE, digest=ANY, size=GIB)
    manifest = Manifest(config=text, layers=(*layers, text))
    return Model(id=ANY, tags=(), manifest=manifest, config=ModelConfig(format="safetensors"))


def engine(variant: str) -> VllmEngine:
    return VllmEngine(EngineContext(processes=FakeProcessSupervisor(directory=Path("/run")), variant=variant))


def test_weights_are_on_the_accelerator_and_the_machines_own_memory_stays_free() -> None:
    """70 GiB of weights beside 16 GiB of memory are no reason to refuse them."""
    needs = engine("cuda").estimate(MemoryRequest(model=model(40 * GIB, 30 * GIB)))
    assert needs is not None
    assert needs.device == 70 * GIB
    assert needs.host < 4 * GIB


def test_a_draft_model_is_on_the_accelerator_too() -> None:
    alone = engine("rocm").estimate(MemoryRequest(model=model(40 * GIB)))
    both = engine("rocm").estimate(MemoryRequest(model=model(40 * GIB), draft=model(2 * GIB)))
    assert alone is not None
    assert both == alone + Memory(0, 2 * GIB)


@pytest.mark.parametrize("sizes", [(), (-5,), (3 * GIB,)])
def test_on_a_processor_weights_and_cache_are_in_its_memory(sizes: tuple[int, ...]) -> None:
    assert engine("cpu").estimate(MemoryRequest(model=model(*sizes))) == Memory(4 * GIB + max(0, sum(sizes)))
