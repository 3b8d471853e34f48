"""How much memory a load is expected to take: a table of what changes it, and what no metadata can do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from dmr_backends_llamacpp.defaults import DEFAULT_ARGUMENTS
from dmr_backends_llamacpp.memory import estimate
from dmr_backends_llamacpp.shape import shape_of
from dmr_core.domain.artifact import Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.memory import Memory
from dmr_core.domain.model import Model
from dmr_core.ports.engine import MemoryRequest

MIB = 1 << 20
ANY = Digest.of(b"anything")
LLAMA = {
    "general.architecture": "llama",
    "general.file_type": "1",
    "llama.block_count": "16",
    "llama.embedding_length": "2048",
    "llama.feed_forward_length": "8192",
    "llama.attention.head_count": "32",
    "llama.attention.head_count_kv": "8",
    "llama.context_length": "8192",
    "llama.vocab_size": "32000",
}
CACHE = 2 * 16 * 8192 * 8 * 64 * 2
"""Of 8192 tokens, in half precision."""


def layer(size: int, kind: LayerType = LayerType.GGUF) -> Descriptor:
    return Descriptor(media_type=kind, digest=ANY, size=size)


def model(*layers: Descriptor, packaged: int | None = None, changes: Mapping[str, str] | None = None) -> Model:
    metadata = {**LLAMA, **(changes or {})}
    config = ModelConfig(format="gguf", gguf=metadata, context_size=packaged)
    manifest = Manifest(config=layer(1), layers=layers or (layer(1000 * MIB),))
    return Model(id=ANY, tags=(), manifest=manifest, config=config)


def needs(
    of: Model | None = None,
    *flags: str,
    base: tuple[str, ...] = DEFAULT_ARGUMENTS,
    on_device: bool = False,
    draft: Model | None = None,
    **config: Any,
) -> Memory:
    settings = EngineConfig(runtime_flags=flags, **config)
    return estimate(MemoryRequest(model=of or model(), config=settings, draft=draft), base, on_device=on_device)


def test_every_shard_and_the_projector_count_and_nothing_else_does() -> None:
    one = needs().host
    shards = model(layer(400 * MIB), layer(600 * MIB), layer(9 * MIB, LayerType.LICENSE))
    seeing = model(layer(1000 * MIB), layer(100 * MIB, LayerType.MMPROJ))
    adapted = model(layer(1000 * MIB), layer(30 * MIB, LayerType.LORA), layer(20 * MIB, LayerType.LORA))

    assert needs(shards).host == one
    assert needs(seeing).host == one + 100 * MIB
    assert needs(seeing, "--no-mmproj").host == one
    assert needs(adapted).host == one + 50 * MIB
    assert needs(adapted, on_device=True) == needs(on_device=True) + Memory(0, 50 * MIB)
    assert needs(adapted, "-ngl", "0", on_device=True) == needs(None, "-ngl", "0", on_device=True) + Memory(50 * MIB)


@pytest.mark.parametrize(
    ("tokens", "packaged", "flags", "base", "config"),
    [
        (8192, None, (), (), {}),
        (4096, 4096, (), (), {}),
        (4096, 4096, (), ("-c", "2048"), {}),
        (2048, None, (), ("-c", "2048"), {}),
        (1024, 4096, (), ("-c", "2048"), {"context_size": 1024}),
        (8192, 4096, (), ("-c", "2048"), {"context_size": -1}),
        (512, 4096, ("--ctx-size", "512"), ("-c", "2048"), {"context_size": 1024}),
        (2048, None, (), ("--kv-unified-per-slot", "512"), {}),
        (16384, None, ("-np", "2"), (), {}),
        (8192, None, ("-np", "2", "-kvu"), (), {}),
        (8192, None, ("-np", "2", "--fit", "off"), (), {}),
        (4096, None, ("-np", "2", "-c", "4096"), (), {}),
    ],
)
def test_the_cache_is_as_long_as_the_server_will_make_it(
    tokens: int, packaged: int | None, flags: tuple[str, ...], base: tuple[str, ...], config: dict[str, Any]
) -> None:
    plain = needs(None, "-c", "256").host - CACHE * 256 // 8192 - 2 * 256 * 256
    spent = needs(model(packaged=packaged), *flags, base=base, **config).host

    # The work space of a batch grows with it up to 512 tokens, by far less than a cache.
    assert spent - plain - CACHE * tokens // 8192 == pytest.approx(2 * 512 * tokens, abs=34 * MIB)


def test_a_quantized_cache_is_smaller() -> None:
    assert needs().host - needs(None, "-ctk", "q8_0", "-ctv", "q4_0").host == CACHE - CACHE // 2 * (34 + 18) // 64


def test_weights_that_the_processor_lays_out_anew_count_twice_unless_told_otherwise() -> None:
    packed = model(changes={"general.file_type": "2"})
    assert needs(packed).host == needs().host + 1000 * MIB
    assert needs(packed, "--no-repack").host == needs(packed, "--no-mmap").host == needs().host


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"llama.attention.head_count_kv": ", ".join(["8"] * 4 + ["0"] * 12)}, 1 / 4),
        ({"llama.attention.key_length": "128", "llama.attention.value_length": "128"}, 2),
        ({"llama.full_attention_interval": "4"}, 1 / 4),
        ({"llama.attention.head_count_kv": "nonsense"}, 4),
    ],
)
def test_the_cache_follows_the_shape(changes: dict[str, str], share: float) -> None:
    assert needs(model(changes=changes)).host - needs().host == int(CACHE * share) - CACHE


def test_windows_bound_the_cache_unless_told_otherwise() -> None:
    windows = {"llama.attention.sliding_window": "512", "llama.attention.sliding_window_pattern": "2"}
    short = 512 * 4 + 512
    saved = CACHE // 2 - CACHE // 2 * short // 8192
    assert needs().host - needs(model(changes=windows)).host == saved
    assert needs(model(changes=windows), "--swa-full") == needs()


def test_an_encoder_keeps_no_cache() -> None:
    bert = {key.replace("llama.", "nomic-bert."): value for key, value in LLAMA.items()}
    shape = shape_of({**bert, "general.architecture": "nomic-bert"})
    assert shape is not None
    assert shape.layers == ()


def test_an_accelerator_takes_weights_and_cache_as_far_as_it_is_told() -> None:
    whole = needs(on_device=True)
    assert whole.device >= 1000 * MIB + CACHE
    assert whole.host < 400 * MIB
    half = needs(None, "-ngl", "8", on_device=True)
    assert 400 * MIB < half.device - (whole.device - 1000 * MIB - CACHE) < 600 * MIB + CACHE // 2
    assert needs(None, "-ngl", "0", on_device=True).host >= 1000 * MIB + CACHE
    assert whole.device - needs(None, "-nkvo", on_device=True).device == CACHE


def test_a_draft_model_has_weights_and_a_cache_of_its_own() -> None:
    draft = model(layer(100 * MIB), changes={"llama.block_count": "8"})
    more = needs(draft=draft).host - needs().host
    assert 100 * MIB + CACHE // 2 <= more <= 190 * MIB + CACHE // 2


def test_without_metadata_the_files_still_count() -> None:
    bare = attrs.evolve(model(), config=ModelConfig(format="gguf"))
    assert 1000 * MIB < needs(bare).host < 1100 * MIB


@pytest.mark.parametrize(
    "value", ["", "-1", "9" * 5000, "1e9", "NaN", "²", "٣", "0", ", ".join("8" * 3000), "true", "8, , 8", "\x00"]
)
@pytest.mark.parametrize("key", [*sorted(LLAMA), "llama.attention.sliding_window", "llama.ssm.inner_size"])
def test_no_value_can_make_it_fail_or_grow_without_bound(key: str, value: str) -> None:
    for architecture in ("llama", "gemma3", "bert"):
        hostile = model(changes={"general.architecture": architecture, key: value})
        for flags in ((), ("-np", "4096"), ("-fa", "off")):
            found = needs(hostile, *flags)
            assert 0 < found.host < 1 << 80


def test_everything_at_its_worst_stays_quick_and_bounded() -> None:
    worst = dict.fromkeys(LLAMA, "9" * 12) | {"general.architecture": "llama"}
    assert needs(model(changes=worst), "-np", "4096", "-fa", "off").host < 1 << 80
