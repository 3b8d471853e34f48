"""What a model's ``config.json`` says of its size, as far as the launch depends on it (Transformers' names)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["Shape", "read_shape"]

_LONGEST: Final = 4 * 1024 * 1024
_MOST: Final = 1_000_000_000


@attrs.frozen(kw_only=True)
class Shape:
    """Numbers of a transformer; 0 where the document does not say."""

    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    layers: int = 0
    context: int = 0

    def cache_bytes(self, context: int, *, element: int = 2) -> int:
        """Bytes of keys and values of one sequence of ``context`` tokens, in numbers of ``element`` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * element * context


def read_shape(directory: Path) -> Shape:
    """The shape of the model in ``directory``; an empty one where it cannot be read."""
    try:
        with (directory / "config.json").open("rb") as file:
            document = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return Shape()
    if not isinstance(document, dict):
        return Shape()
    text = document.get("text_config")
    inner: dict[str, Any] = text if isinstance(text, dict) else document
    heads = _number(inner, "num_attention_heads", "n_head")
    hidden = _number(inner, "hidden_size", "n_embd")
    return Shape(
        heads=heads,
        kv_heads=_number(inner, "num_key_value_heads") or heads,
        head_size=_number(inner, "head_dim") or (hidden // heads if heads else 0),
        layers=_number(inner, "num_hidden_layers", "n_layer"),
        context=_number(inner, "max_position_embeddings", "n_positions"),
    )


def _number(document: dict[str, Any], *names: str) -> int:
    for name in names:
        value = document.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
            return value
    return 0
