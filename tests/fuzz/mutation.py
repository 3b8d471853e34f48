"""Changes to valid inputs that a parser gets to see the inside of, which random bytes rarely give it."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["Mutation", "mutate_bytes", "mutation_of"]

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 7, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 1 << 31, 1 << 63, 1 << 64, 10**400, -(1 << 63)),
    *("", "x", "\ud800", "\0", "é" * 300, "sha256:" + "c" * 64, "sha256:" + "C" * 64, "hf.co/a/b", "9999-12-31T23:59:60Z"),
    *("0001-01-01T00:00:00+23:59", [], {}, [[]], {"": None}, ["x"] * 50, {"a": {"b": {"c": [None]}}}),
)  # fmt: skip
_CONFIG = b"--config.json--"


def mutation_of(target: str) -> Mutation:
    """What changes inputs of the target of this name."""
    if target == "safetensors":
        return _mutate_safetensors
    return _mutate_json if target in ("manifest", "config", "index") else mutate_bytes


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Change a few bytes: one, a number of four or eight, a piece left out, doubled or taken from elsewhere."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, other = draw.randint(0, len(changed)), draw.randint(0, len(changed))
        begin, end = min(at, other), max(at, other)
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 1:
                layout = draw.choice(("<I", ">I", "<Q", ">Q", "<H"))
                width = struct.calcsize(layout)
                changed[at : at + width] = struct.pack(layout, draw.choice(_NUMBERS) & ((1 << 8 * width) - 1))
            case 2:
                del changed[begin:end]
            case 3:
                changed[at:at] = changed[begin:end][:4096]
            case 4:
                piece = changed[begin:end][:64]
                changed[at : at + len(piece)] = piece
            case _:
                del changed[at:]
    return bytes(changed)


def _mutate_json(data: bytes, draw: random.Random) -> bytes:
    """Change a document as a document; what is none, and now and then one that is, by its bytes."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, draw)
    if draw.randrange(8) == 0:
        return mutate_bytes(data, draw)
    box = [document]
    for _ in range(draw.randint(1, 3)):
        _change(box, draw)
    try:
        text = json.dumps(box[0], ensure_ascii=draw.random() < 0.5)
    except RecursionError:
        return data
    if draw.randrange(10) == 0:  # a name that is there twice
        text = text.replace("{", '{"config":null,"id":1,"size":1e999,', 1)
    return text.encode("utf-8", "surrogatepass")


def _change(box: list[Any], draw: random.Random) -> None:
    holder: Any = box
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
        holder = holder[key]
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    match draw.randrange(6):
        case 0 if holder is not box:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(("config", "models", "tags", "id", "__metadata__", "shape", key + "x"))] = holder.pop(
                key
            )
        case 2:
            inner = holder[key]
            for _ in range(draw.choice((1, 3, 300))):
                inner = [inner] if draw.random() < 0.5 else {"config": inner}
            holder[key] = inner
        case 3 if isinstance(holder, list) and holder is not box:
            holder.extend([holder[key]] * draw.choice((1, 2, 20)))
        case _:
            holder[key] = copy.deepcopy(draw.choice(_ODD))


def _mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Change the header or the config, the length with it."""
    weights, mark, config = data.partition(_CONFIG)
    if mark and draw.random() < 0.3:
        return weights + mark + _mutate_json(config, draw)
    (length,) = struct.unpack_from("<Q", weights) if len(weights) >= 8 else (0,)
    if length > len(weights) - 8 or draw.random() < 0.2:
        return mutate_bytes(data, draw)
    header = _mutate_json(weights[8 : 8 + length], draw)
    return struct.pack("<Q", len(header)) + header + weights[8 + length :] + mark + config
