"""The bundled model with tokens that mark a prefix, a suffix and a middle: any will do to show that they are used."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["fim_model"]

_PREAMBLE = struct.Struct("<4sIQQ")
_ALIGNMENT = 32
_UINT32, _STRING = 4, 8
_TOKENS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.fim_mid_token_id")
_FILLER = b"general.filler"


def fim_model(source: Path) -> bytes:
    """The GGUF at ``source`` with them in its metadata. As much is put in as keeps everything behind it aligned."""
    content = source.read_bytes()
    magic, version, tensors, pairs = _PREAMBLE.unpack_from(content)
    added = b"".join(_key(name.encode(), _UINT32) + struct.pack("<I", 34 + n) for n, name in enumerate(_TOKENS))
    head = _key(_FILLER, _STRING)
    missing = -(len(added) + len(head) + 8) % _ALIGNMENT
    added += head + struct.pack("<Q", missing) + b"x" * missing
    preamble = _PREAMBLE.pack(magic, version, tensors, pairs + len(_TOKENS) + 1)
    return preamble + added + content[_PREAMBLE.size :]


def _key(name: bytes, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)
