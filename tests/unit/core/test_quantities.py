from __future__ import annotations

import pytest

from dmr_core.domain.quantities import gguf_parameters, gguf_size, safetensors_parameters, safetensors_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (183, "183"),
        (999, "999"),
        (1000, "1K"),
        (1_500, "1.50K"),
        (361_820_000, "361.82M"),
        (10**9, "1B"),
        (7_241_732_096, "7.24B"),
        (10**12, "1T"),
        (3 * 10**15, "3Q"),
    ],
)
def test_gguf_parameters(count: int, text: str) -> None:
    assert gguf_parameters(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (64, "64B"),
        (864, "864B"),
        (1000, "1KB"),
        (1024, "1KiB"),
        (1_000_000, "1MB"),
        (268_802_457, "256.35MiB"),
        (1_020_000_000, "1.02GB"),
        (1_500_000_000, "1.40GiB"),
        (10**12, "1TB"),
        (2**40, "1TiB"),
        (10**15, "1PB"),
        (2**50, "1PiB"),
    ],
)
def test_gguf_size_takes_the_largest_unit_binary_or_decimal(size: int, text: str) -> None:
    assert gguf_size(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.00"),
        (128, "128.00"),
        (16_781_312, "16.78M"),
        (7 * 10**9, "7.00B"),
        (10**12, "1.00T"),
        (10**15, "1000.00T"),
    ],
)
def test_safetensors_parameters(count: int, text: str) -> None:
    assert safetensors_parameters(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (-1, "n/a"),
        (0, "n/a"),
        (2, "2.00B"),
        (792, "792.00B"),
        (1_500, "1.50kB"),
        (4_300_000_000, "4.30GB"),
        (10**18, "1.00EB"),
        (10**21, "1000.00EB"),
    ],
)
def test_safetensors_size(size: int, text: str) -> None:
    assert safetensors_size(size) == text
