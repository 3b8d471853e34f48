"""A GGUF of any size that llama.cpp runs, of random weights: the bundled model's tokenizer around a larger network.

It says nothing, at the speed of a model of its size. Format: the GGUF specification, version 3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

import dmr_cli.demo

__all__ = ["Network", "random_model"]

_DEMO: Final = Path(dmr_cli.demo.__file__).with_name("model") / "demo.gguf"
_ALIGNMENT: Final = 32
_F32, _F16 = 0, 1
_UINT32, _STRING, _ARRAY = 4, 8, 9
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_PIECE: Final = 1 << 20
# As half floats: a random sign and fraction, and the exponent of 1/128, so that nothing overflows.
_RANDOM_BITS: Final = int.from_bytes(b"\xff\x83" * (_PIECE // 2), "little")
_EXPONENT: Final = int.from_bytes(b"\x00\x20" * (_PIECE // 2), "little")


@attrs.frozen(kw_only=True)
class Network:
    """A llama's shape; the defaults make 322 MB."""

    width: int = 1024
    hidden: int = 2816
    blocks: int = 12
    heads: int = 16
    context: int = 8192

    def tensors(self, vocabulary: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Name, type and shape, as llama.cpp names them."""
        yield "token_embd.weight", _F16, (self.width, vocabulary)
        yield "output_norm.weight", _F32, (self.width,)
        for number in range(self.blocks):
            for name, shape in (
                ("attn_norm", (self.width,)),
                ("ffn_norm", (self.width,)),
                ("attn_q", (self.width, self.width)),
                ("attn_k", (self.width, self.width)),
                ("attn_v", (self.width, self.width)),
                ("attn_output", (self.width, self.width)),
                ("ffn_gate", (self.width, self.hidden)),
                ("ffn_up", (self.width, self.hidden)),
                ("ffn_down", (self.hidden, self.width)),
            ):
                yield f"blk.{number}.{name}.weight", _F32 if len(shape) == 1 else _F16, shape

    def settings(self) -> dict[str, int]:
        """What the file says of the shape."""
        return {
            "llama.context_length": self.context,
            "llama.embedding_length": self.width,
            "llama.feed_forward_length": self.hidden,
            "llama.block_count": self.blocks,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.heads,
            "llama.rope.dimension_count": self.width // self.heads,
        }


def random_model(network: Network | None = None) -> Path:
    """The model's file, kept in the user's cache from one run to the next."""
    network = network or Network()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dmr-bench"
    path = cache / f"random-{network.width}-{network.hidden}-{network.blocks}.gguf"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.part")
        try:
            _write(aside, network)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return path


def _write(path: Path, network: Network) -> None:
    kept, vocabulary = _metadata()
    values = kept | {name: struct.pack("<II", _UINT32, value) for name, value in network.settings().items()}
    tensors = list(network.tensors(vocabulary))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(_text(name) + value for name, value in values.items())
    offset, sizes = 0, []
    for name, kind, shape in tensors:
        size = 4 if kind == _F32 else 2
        for dimension in shape:
            size *= dimension
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += size + -size % _ALIGNMENT
        sizes.append((kind, size))
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % _ALIGNMENT))
        for kind, size in sizes:
            if kind == _F32:
                file.write(struct.pack("<f", 1.0) * (size // 4))
            else:
                for done in range(0, size, _PIECE):
                    file.write(_half_floats()[: size - done])
            file.write(bytes(-size % _ALIGNMENT))


def _half_floats() -> bytes:
    bits = int.from_bytes(os.urandom(_PIECE), "little") & _RANDOM_BITS | _EXPONENT
    return bits.to_bytes(_PIECE, "little")


def _metadata() -> tuple[dict[str, bytes], int]:
    """The bundled model's values, type and all, by name; and the size of its vocabulary."""
    content = _DEMO.read_bytes()
    (count,) = struct.unpack_from("<Q", content, 16)
    at, values, vocabulary = 24, {}, 0
    for _ in range(count):
        name, at = _read_text(content, at)
        end = _end(content, at)
        values[name] = content[at:end]
        if name == "tokenizer.ggml.tokens":
            (vocabulary,) = struct.unpack_from("<Q", content, at + 8)
        at = end
    return values, vocabulary


def _end(content: bytes, at: int) -> int:
    (kind,) = struct.unpack_from("<I", content, at)
    return _value_end(content, at + 4, kind)


def _value_end(content: bytes, at: int, kind: int) -> int:
    if kind in _WIDTHS:
        return at + _WIDTHS[kind]
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", content, at)[0])
    inner, count = struct.unpack_from("<IQ", content, at)
    at += 12
    for _ in range(count):
        at = _value_end(content, at, inner)
    return at


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _read_text(content: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", content, at)
    return content[at + 8 : at + 8 + size].decode(), at + 8 + size
