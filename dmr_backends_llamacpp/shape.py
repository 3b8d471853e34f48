"""The shape of a model, from the metadata of its GGUF file, as far as memory depends on it.

The keys are those of ggml's ``docs/gguf.md``; the values are text that whoever packaged the model wrote, so each is
bounded and none can fail. Lists that are long are not kept in a config, and what is missing counts as its worst case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["Layer", "Shape", "shape_of"]

# Ours, above what any model has: hostile numbers must not make work, or numbers that no field holds.
_MOST_LAYERS: Final = 1024
_MOST_WIDE: Final = 1 << 20
_MOST_CONTEXT: Final = (1 << 31) - 1
_MOST_DIGITS: Final = 12
_MOST_TEXT: Final = 16 * 1024

# How often a layer sees the whole context in architectures that do not say so (llama.cpp, llama-model.cpp:
# set_swa_pattern); the others look back as far as their window.
_PATTERNS: Final = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2}
_ENCODERS: Final = ("bert", "t5encoder")
"""Parts of the names of architectures that keep no cache."""


@attrs.frozen
class Layer:
    """What one token leaves in the cache of one layer, in elements; ``window`` is how many tokens are kept, if few."""

    keys: int
    values: int
    window: int | None = None


@attrs.frozen(kw_only=True)
class Shape:
    """What of a model decides how much memory it takes besides its weights.

    ``widest`` and ``hidden`` are elements of a token's state within and between layers, ``state`` bytes of recurrent
    state of one sequence. ``vocabulary`` and ``context`` are ``None`` where the metadata does not tell.
    """

    layers: tuple[Layer, ...]
    context: int | None = None
    hidden: int = 0
    widest: int = 0
    heads: int = 0
    state: int = 0
    vocabulary: int | None = None


def shape_of(metadata: Mapping[str, str]) -> Shape | None:
    """The shape that ``metadata`` describes; ``None`` where it does not say how many layers there are, or how wide."""
    read = _Metadata(metadata, str(metadata.get("general.architecture", "llama"))[:64])
    count = read.number("block_count", _MOST_LAYERS)
    hidden = read.number("embedding_length")
    if not count or not hidden:
        return None
    heads = read.per_layer("attention.head_count", count) or (1,) * count
    most_heads = max(heads)
    kv_heads = read.per_layer("attention.head_count_kv", count) or heads
    head = hidden // max(1, most_heads)
    keys = _given(read.number("attention.key_length"), head)
    values = _given(read.number("attention.value_length"), head)
    experts = read.number("expert_feed_forward_length") or 0
    widest = max(
        *(read.per_layer("feed_forward_length", count) or (4 * hidden,)),
        experts * (read.number("expert_used_count") or 1),
    )
    full = _sees_everything(read, count)
    window = read.number("attention.sliding_window", _MOST_CONTEXT) or None
    interval = read.number("full_attention_interval", count) or 1
    layers = [
        Layer(kv * keys, kv * values, None if full[number] else window)
        if (number + 1) % interval == 0 and kv
        else Layer(0, 0)
        for number, kv in enumerate(kv_heads)
    ]
    if any(name in read.architecture for name in _ENCODERS):
        layers = []
    recurrent = sum(not layer.keys for layer in layers) or len(layers)
    return Shape(
        layers=tuple(layers),
        context=read.number("context_length", _MOST_CONTEXT) or None,
        hidden=hidden,
        widest=widest,
        heads=most_heads,
        state=recurrent * _recurrent_state(read),
        vocabulary=read.number("vocab_size", 1 << 24) or None,
    )


@attrs.frozen
class _Metadata:
    """Reads numbers under the keys of one architecture."""

    values: Mapping[str, str]
    architecture: str

    def number(self, name: str, most: int = _MOST_WIDE) -> int | None:
        """A number, at most ``most``; ``None`` where there is none that could be meant."""
        found = self.texts(name)
        return _number(found[0], most) if len(found) == 1 else None

    def per_layer(self, name: str, count: int) -> tuple[int, ...]:
        """A number for each layer, be it one for all or a list; empty where there is none."""
        found = [_number(text, _MOST_WIDE) for text in self.texts(name)]
        numbers = [number for number in found if number is not None]
        if not numbers or len(numbers) != len(found):
            return ()
        return tuple(numbers[min(layer, len(numbers) - 1)] for layer in range(count))

    def texts(self, name: str) -> list[str]:
        """The words of a value."""
        value = self.values.get(f"{self.architecture}.{name}")
        return str(value)[:_MOST_TEXT].split(", ") if value is not None else []


def _number(text: str, most: int) -> int | None:
    stripped = text.strip()
    if not stripped.isascii() or not stripped.isdigit():
        return None
    return most if len(stripped) > _MOST_DIGITS else min(int(stripped), most)


def _given(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number


def _sees_everything(read: _Metadata, count: int) -> tuple[bool, ...]:
    """Which layers keep the whole context rather than a window of it."""
    told = [text.strip() for text in read.texts("attention.sliding_window_pattern")]
    if len(told) > 1 and {"true", "false"}.issuperset(told):
        return tuple(told[min(layer, len(told) - 1)] == "false" for layer in range(count))
    every = read.number("attention.sliding_window_pattern", count) or _PATTERNS.get(read.architecture, 1)
    return tuple((layer + 1) % every == 0 for layer in range(count))


def _recurrent_state(read: _Metadata) -> int:
    """Bytes that one sequence leaves in a recurrent layer: single precision, as llama.cpp keeps it."""
    inner, state = read.number("ssm.inner_size") or 0, read.number("ssm.state_size") or 0
    groups, kernel = read.number("ssm.group_count") or 0, read.number("ssm.conv_kernel") or 1
    return 4 * (inner * state + max(0, kernel - 1) * (inner + 2 * groups * state))
