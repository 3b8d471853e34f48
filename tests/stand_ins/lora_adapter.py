"""A LoRA adapter for the demo model that changes what it says, written byte by byte (ggml's ``docs/gguf.md``, version 3)."""

from __future__ import annotations

import json
import struct
from importlib import resources
from typing import Final

__all__ = ["lora_adapter"]

_ALIGNMENT: Final = 32
_STRING, _FLOAT, _F32 = 8, 6, 0
_RANK: Final = 2


def lora_adapter(weight: float = 0.5) -> bytes:
    """The adapter. ``weight`` is how strongly it pulls at the first layer; with 0 it does nothing."""
    config = json.loads((resources.files("dmr_cli.demo") / "model/safetensors/config.json").read_text())
    width = config["hidden_size"]
    name = "blk.0.attn_output.weight"
    tensors = {
        f"{name}.lora_a": ((width, _RANK), [1.0 if place % 3 else -1.0 for place in range(width * _RANK)]),
        f"{name}.lora_b": ((_RANK, width), [weight * (place % 5 - 2) for place in range(width * _RANK)]),
    }
    pairs = [
        _text_pair("general.architecture", "llama"),
        _text_pair("general.type", "adapter"),
        _text_pair("adapter.type", "lora"),
        _text("adapter.lora.alpha") + struct.pack("<If", _FLOAT, float(_RANK)),
    ]
    infos, content = b"", b""
    for tensor, (shape, values) in tensors.items():
        infos += _text(tensor) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", _F32, len(content))
        content += _padded(struct.pack(f"<{len(values)}f", *values))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + infos
    return _padded(head) + content


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _text_pair(key: str, value: str) -> bytes:
    return _text(key) + struct.pack("<I", _STRING) + _text(value)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
