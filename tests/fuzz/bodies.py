"""Bodies of requests with changes that get through the first decoding, for the routes of a dialect of the API.

A dialect's test hands over samples of valid bodies; every mutant is made from one of them and a number, so a finding is
reproduced by that number.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["ODD", "mutants"]

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        1.5,
        1e308,
        1 << 31,
        1 << 53,
        1 << 63,
        1 << 64,
        10**400,
        -(1 << 63),
        float("nan"),
    ),
    *(float("inf"), "", " ", "x", "\0", "\ud800", "\u2028", "é" * 300, "x" * 70_000, "true", "0", "-1", "5m", "null"),
    *("data:image/png;base64,AAAA", "file:///etc/passwd", "http://127.0.0.1:1/", "../..", "one", "{{ x }}", "%s%n"),
    *([], {}, [[]], {"": None}, [None] * 50, {"type": None}, {"type": []}, {"a": {"b": {"c": [None]}}}, [{}], ["x"]),
)
"""Values that a field does not expect."""
_DEEP = "-deep-"  # stands for something nested, which Python could not write itself


def mutants(samples: Sequence[Any], count: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """``count`` bodies and the numbers they are made from, beginning with ``seed``."""
    words = sorted({key for sample in samples for key in _keys(sample)})
    for number in range(seed, seed + count):
        draw = random.Random(number)
        yield number, _mutant(draw.choice(samples), words, draw)


def _mutant(sample: Any, words: Sequence[str], draw: random.Random) -> bytes:
    box = [copy.deepcopy(sample)]
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        _change(box, words, draw)
    text = json.dumps(box[0], ensure_ascii=draw.random() < 0.7)
    depth = draw.choice((1, 3, 200, 300, 1100, 30_000))
    opening, closing = ("[", "]") if draw.random() < 0.5 else (f'{{"{draw.choice(words)}":', "}")
    text = text.replace(f'"{_DEEP}"', opening * depth + "1" + closing * depth)
    content = text.encode("utf-8", "surrogatepass")
    if draw.randrange(12):
        return content
    at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    match draw.randrange(4):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[end:]
        case 2:
            return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        case _:
            return content + draw.choice((b"x", b"{}", b"\0", b" ", b"\xff"))


def _change(box: list[Any], words: Sequence[str], draw: random.Random) -> None:
    """Change one value of a document that is held in a list."""
    holder, key = _place(box, draw)
    match draw.randrange(8):
        case 0 if holder is not box:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(words)] = holder.pop(key)
        case 2 if isinstance(holder, dict):
            holder[draw.choice(words)] = copy.deepcopy(draw.choice(ODD))
        case 3:
            holder[key] = _DEEP
        case 4 if isinstance(holder, list) and holder is not box:
            holder.extend(copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 2, 40))))
        case 5:
            other, where = _place(box, draw)
            holder[key] = copy.deepcopy(other[where])
        case _:
            holder[key] = copy.deepcopy(draw.choice(ODD))


def _place(box: list[Any], draw: random.Random) -> tuple[Any, Any]:
    holder: Any = box
    key: Any = 0
    for _ in range(12):
        if not isinstance(holder[key], dict | list) or not holder[key] or draw.random() < 0.2:
            break
        holder = holder[key]
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    return holder, key


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)
