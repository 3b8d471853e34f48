"""Sizes and parameter counts as people read them in a model's config.

Four spellings, because the reference has four: it formats GGUF numbers with gguf-parser-go (its
``scalar.go``) and the others with Docker's ``go-units`` (its ``size.go``). A config is part of a
model's identity, so each must come out to the letter.
"""

from __future__ import annotations

from typing import Final

__all__ = ["gguf_parameters", "gguf_size", "safetensors_parameters", "safetensors_size"]

_GGUF_COUNTS: Final = ((10**15, "Q"), (10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
# Binary and decimal units interleaved: the largest that fits wins, so 1.02e9 is 1.02GB but 1.5e9 is 1.40GiB.
_GGUF_BYTES: Final = (
    (1 << 50, "Pi"),
    (10**15, "P"),
    (1 << 40, "Ti"),
    (10**12, "T"),
    (1 << 30, "Gi"),
    (10**9, "G"),
    (1 << 20, "Mi"),
    (10**6, "M"),
    (1 << 10, "Ki"),
    (10**3, "K"),
)
_COUNT_UNITS: Final = ("", "K", "M", "B", "T")
_BYTE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def gguf_parameters(count: int) -> str:
    """A parameter count from a GGUF: ``361.82M``, ``1B``, ``183``."""
    return _largest_unit(count, _GGUF_COUNTS)


def gguf_size(size: int) -> str:
    """Bytes of tensor data in a GGUF: ``256.35MiB``, ``1.02GB``, ``864B``."""
    return _largest_unit(size, _GGUF_BYTES) + "B"


def safetensors_parameters(count: int) -> str:
    """A parameter count from safetensors headers: ``7.00B``, ``128.00``."""
    return _thousands(count, _COUNT_UNITS)


def safetensors_size(size: int) -> str:
    """Bytes of safetensors and DDUF files: ``4.30GB``, ``792.00B``, and ``n/a`` for nothing."""
    return _thousands(size, _BYTE_UNITS) if size > 0 else "n/a"


def _largest_unit(value: int, units: tuple[tuple[int, str], ...]) -> str:
    scale, unit = next(((scale, unit) for scale, unit in units if value >= scale), (1, ""))
    return f"{float(value) / scale:.2f}".removesuffix(".00") + unit


def _thousands(value: int, units: tuple[str, ...]) -> str:
    # Divided again and again, as the original does: one division by the power could round differently.
    scaled, position = float(value), 0
    while scaled >= 1000 and position < len(units) - 1:
        scaled /= 1000
        position += 1
    return f"{scaled:.2f}{units[position]}"
