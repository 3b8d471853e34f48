"""A model of any size that llama.cpp really runs: the demo model's vocabulary around random weights.

What it says is noise, but it loads, fills memory and takes time to answer as a real model of its size and shape does.
Run as a program it writes one: ``python -m tests.stand_ins.big_model FILE --size 300MiB``.
"""

from __future__ import annotations

import argparse
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from dmr_core.domain.memory import MemoryBudget

__all__ = ["Shape", "write_big_model"]

DEMO: Final = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model" / "demo.gguf"

# Types of values and tensors: ggml's docs/gguf.md. Of a tensor: its number, elements in a block, bytes of a block.
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, _INT32: 4, _FLOAT32: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_F32: Final = (0, 1, 4)
_KINDS: Final = {"f16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34)}
_FILE_TYPES: Final = {"f16": 1, "q4_0": 2, "q8_0": 7}
_SCALE: Final = struct.pack("<e", 2**-12)
_ALIGNMENT: Final = 32
_TILE_BLOCKS: Final = 64 * 1024
_NORMAL_TOKEN: Final = 1


@attrs.frozen(kw_only=True)
class Shape:
    """The sizes of a Llama, by default one of 291 MiB.

    ``width`` is a token's state between layers, ``hidden`` within; ``kind`` how matrices are stored: f16, q8_0 or q4_0.
    """

    layers: int = 10
    width: int = 1024
    hidden: int = 4096
    heads: int = 16
    kv_heads: int = 4
    context: int = 2048
    vocabulary: int = 512
    kind: str = "f16"

    @property
    def head(self) -> int:
        """How wide one attention head is."""
        return self.width // self.heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and dimensions, the fastest first, in the order of the file."""
        yield "token_embd.weight", (self.width, self.vocabulary)
        kv = self.kv_heads * self.head
        for layer in range(self.layers):
            for name, dimensions in (
                ("attn_norm", (self.width,)),
                ("attn_q", (self.width, self.width)),
                ("attn_k", (self.width, kv)),
                ("attn_v", (self.width, kv)),
                ("attn_output", (self.width, self.width)),
                ("ffn_norm", (self.width,)),
                ("ffn_gate", (self.width, self.hidden)),
                ("ffn_up", (self.width, self.hidden)),
                ("ffn_down", (self.hidden, self.width)),
            ):
                yield f"blk.{layer}.{name}.weight", dimensions
        yield "output_norm.weight", (self.width,)

    def bytes_of(self, dimensions: tuple[int, ...]) -> int:
        """Bytes of one tensor."""
        _, elements, size = _F32 if len(dimensions) == 1 else _KINDS[self.kind]
        rows = 1
        for dimension in dimensions[1:]:
            rows *= dimension
        return dimensions[0] // elements * size * rows

    @property
    def weights(self) -> int:
        """Bytes of all tensors, without the padding between them."""
        return sum(self.bytes_of(dimensions) for _, dimensions in self.tensors())

    def grown_to(self, size: int) -> Shape:
        """The same with as many layers as make at least ``size`` bytes of weights."""
        layer = (attrs.evolve(self, layers=1).weights) - (nothing := attrs.evolve(self, layers=0).weights)
        return attrs.evolve(self, layers=max(1, -(-(size - nothing) // layer)))


def write_big_model(path: Path, shape: Shape | None = None, *, size: int | None = None, seed: int = 7) -> Path:
    """Write a GGUF file to ``path``, a piece at a time, and return the path.

    Args:
        path: Where to; an existing file is replaced.
        shape: What it is like.
        size: Bytes that its weights shall have at least; layers are added for them.
        seed: Other seeds give files with other digests.
    """
    chosen = (shape or Shape()).grown_to(size) if size is not None else shape or Shape()
    tensors = list(chosen.tensors())
    source = random.Random(seed)
    tile = _tile(chosen.kind, source)
    block = _KINDS[chosen.kind][2]
    with path.open("wb") as file:
        file.write(_header(chosen, tensors))
        _pad(file)
        for _, dimensions in tensors:
            if len(dimensions) == 1:
                file.write(struct.pack("<f", 1.0) * dimensions[0])
            else:
                _fill(file, tile, source.randrange(_TILE_BLOCKS) * block, chosen.bytes_of(dimensions))
            _pad(file)
    return path


def _tile(kind: str, source: random.Random) -> memoryview:
    """A piece of random weights, small enough that no layer makes the next one's numbers run away."""
    if kind == "f16":
        bits = int.from_bytes(source.randbytes(2 * _TILE_BLOCKS), "little")
        sign_and_fraction = int.from_bytes(b"\xff\x83" * _TILE_BLOCKS, "little")
        exponent = int.from_bytes(b"\x00\x24" * _TILE_BLOCKS, "little")  # from 1/64 to 1/32
        return memoryview((bits & sign_and_fraction | exponent).to_bytes(2 * _TILE_BLOCKS, "little"))
    size = _KINDS[kind][2] - len(_SCALE)
    return memoryview(b"".join(_SCALE + source.randbytes(size) for _ in range(_TILE_BLOCKS)))


def _fill(file: BinaryIO, tile: memoryview, start: int, count: int) -> None:
    while count:
        piece = tile[start : start + count]
        file.write(piece)
        count -= len(piece)
        start = 0


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _header(shape: Shape, tensors: list[tuple[str, tuple[int, ...]]]) -> bytes:
    pairs = _demo_pairs()
    for name, number in {
        "general.file_type": _FILE_TYPES[shape.kind],
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.hidden,
        "llama.block_count": shape.layers,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.rope.dimension_count": shape.head,
        "llama.vocab_size": shape.vocabulary,
    }.items():
        pairs[name] = struct.pack("<II", _UINT32, number)
    pairs["general.name"] = struct.pack("<I", _STRING) + _string("big model")
    more = shape.vocabulary - _count(pairs["tokenizer.ggml.tokens"])
    _extend(pairs, "tokenizer.ggml.tokens", [_string(f"<spare {number}>") for number in range(more)])
    _extend(pairs, "tokenizer.ggml.token_type", [struct.pack("<i", _NORMAL_TOKEN)] * more)
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    parts += [_string(name) + value for name, value in pairs.items()]
    offset = 0
    for name, dimensions in tensors:
        number = _F32[0] if len(dimensions) == 1 else _KINDS[shape.kind][0]
        parts.append(
            _string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, number, offset)
        )
        offset += -(-shape.bytes_of(dimensions) // _ALIGNMENT) * _ALIGNMENT
    return b"".join(parts)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _count(array: bytes) -> int:
    count: int = struct.unpack_from("<IIQ", array)[2]
    return count


def _extend(pairs: dict[str, bytes], name: str, elements: list[bytes]) -> None:
    kind, of, count = struct.unpack_from("<IIQ", pairs[name])
    pairs[name] = struct.pack("<IIQ", kind, of, count + len(elements)) + pairs[name][16:] + b"".join(elements)


def _demo_pairs() -> dict[str, bytes]:
    """The metadata of the demo model, as it stands in its file: the type, then the value."""
    data = DEMO.read_bytes()
    _, _, count = struct.unpack_from("<IQQ", data, 4)
    position, pairs = 24, {}
    for _ in range(count):
        length = struct.unpack_from("<Q", data, position)[0]
        name = data[position + 8 : position + 8 + length].decode()
        start = position + 8 + length
        position = _after(data, struct.unpack_from("<I", data, start)[0], start + 4)
        pairs[name] = data[start:position]
    return pairs


def _after(data: bytes, kind: int, position: int) -> int:
    """Where a value ends."""
    if kind == _STRING:
        return position + 8 + int(struct.unpack_from("<Q", data, position)[0])
    if kind != _ARRAY:
        return position + _WIDTHS[kind]
    of, count = struct.unpack_from("<IQ", data, position)
    position += 12
    for _ in range(count):
        position = _after(data, of, position)
    return position


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    asked.add_argument("--size", default="300MiB")
    asked.add_argument("--kind", default="f16", choices=sorted(_KINDS))
    given = asked.parse_args()
    print(write_big_model(given.file, Shape(kind=given.kind), size=MemoryBudget.parse(given.size).limit))
