"""Bounds of what clients ask of an engine, checked before it sees them.

Engines trust their numbers: a negative count has been an out-of-bounds write (CVE-2026-21869), a huge one is the memory
of everybody. The bounds are wide: they keep out what no engine can mean, and leave what one may not offer to the engine.
Only fields with bounds are decoded; arrays and objects are looked at as text, so that nothing is
allocated for each of their elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec

from dmr_core.errors import InvalidRequestError

__all__ = ["MAX_DEPTH", "check_fields", "check_shape"]

MAX_DEPTH: Final = 128
"""Objects and arrays within each other; real schemas have a dozen."""

_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1
_Meta = msgspec.Meta
# Some clients write their numbers as 100.0, and engines take them.
Count = Annotated[int, _Meta(ge=0, le=_INT32)] | Annotated[float, _Meta(ge=0, le=_INT32)] | None
Tokens = Annotated[int, _Meta(ge=-2, le=_INT32)] | Annotated[float, _Meta(ge=-2, le=_INT32)] | None
"""llama.cpp: -1 is no limit, -2 until the context is full."""
Window = Annotated[int, _Meta(ge=-1, le=_INT32)] | Annotated[float, _Meta(ge=-1, le=_INT32)] | None
Copies = Annotated[int, _Meta(ge=1, le=128)] | None
Alternatives = Annotated[int, _Meta(ge=0, le=128)] | None
Share = Annotated[float, _Meta(ge=0, le=1)] | None
Factor = Annotated[float, _Meta(ge=-100, le=100)] | None

# name -> most elements. The body's size bounds the rest.
_LENGTHS: Final = {
    "messages": 16_384,
    "tools": 1_024,
    "functions": 1_024,
    "stop": 256,
    "stop_sequences": 256,
    "logit_bias": 1_024,
    "input": 1_048_576,
    "prompt": 1_048_576,
    "documents": 16_384,
    "lora": 64,
}
_MANY_COMMAS: Final = 65_536
_MAX_FIELDS: Final = 1_024
_MAX_BRACKETS: Final = 262_144
"""Objects and arrays outside strings that a request may have, closed ones counted twice: looking costs 0.1 us each."""
_NOT_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b"[]{},")
_STEPS: Final = [1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256)]


# Fields of the engines' APIs that have bounds; other fields are passed over.
_KINDS: Final[dict[str, Any]] = {
    "n": Copies,
    "best_of": Copies,
    "max_tokens": Tokens,
    "max_completion_tokens": Tokens,
    "max_output_tokens": Tokens,
    "n_predict": Tokens,
    "min_tokens": Count,
    "top_logprobs": Alternatives,
    "logprobs": bool | Alternatives,
    "prompt_logprobs": Alternatives,
    "n_probs": Alternatives,
    "n_keep": Window,
    "n_discard": Count,
    "n_indent": Count,
    "n_cache_reuse": Count,
    "id_slot": Annotated[int, _Meta(ge=-1, le=1023)] | None,
    "top_k": Window,
    "top_n": Window,
    "min_keep": Count,
    "repeat_last_n": Window,
    "dry_penalty_last_n": Window,
    "dry_allowed_length": Count,
    "t_max_predict_ms": Window,
    "t_max_prompt_ms": Window,
    "truncate_prompt_tokens": Window,
    "mirostat": Annotated[int, _Meta(ge=0, le=2)] | None,
    "dimensions": Annotated[int, _Meta(ge=1, le=65_536)] | None,
    "seed": Annotated[int, _Meta(ge=-(2**63), le=_INT64)] | Annotated[float, _Meta(ge=-(2**63), le=_INT64)] | None,
    "temperature": Factor,
    "top_p": Share,
    "min_p": Share,
    "presence_penalty": Factor,
    "frequency_penalty": Factor,
    "repeat_penalty": Factor,
    "repetition_penalty": Factor,
}
_DECODERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in _KINDS.items()}
_BOUNDED: Final = _DECODERS.keys() | _LENGTHS.keys()


def check_shape(content: bytes) -> None:
    """Refuse JSON that is nested deeper than :data:`MAX_DEPTH`, or has more fields than anybody sends.

    Three counts settle it for nearly every request; the rest is looked at without its strings.

    Raises:
        InvalidRequestError: it is.
    """
    if content.count(b",") > _MANY_COMMAS and _commas(content, _MAX_FIELDS) >= _MAX_FIELDS and _is_object(content):
        raise InvalidRequestError(f"invalid request: more than {_MAX_FIELDS} fields")
    if content.count(b"{") + content.count(b"[") <= MAX_DEPTH:
        return
    brackets = _structure(content).replace(b",", b"")
    if len(brackets) > _MAX_BRACKETS:
        raise InvalidRequestError("invalid request: too many objects and arrays")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise InvalidRequestError(f"invalid request: nested deeper than {MAX_DEPTH} levels")


def check_fields(fields: Mapping[str, msgspec.Raw]) -> None:
    """Refuse numbers out of bounds, and arrays and objects with too many elements.

    Raises:
        InvalidRequestError: one is; says which, and what it may be.
    """
    for name in fields:
        if name not in _BOUNDED:
            continue
        decode = _DECODERS.get(name)
        if decode is None:
            _check_length(name, fields[name])
            continue
        try:
            decode(fields[name])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidRequestError(f"invalid request: {exc} - at `$.{name}`", param=name) from exc


def _check_length(name: str, raw: msgspec.Raw) -> None:
    most = _LENGTHS[name]
    # No more elements than commas, and one. Strings may hold commas, too, so then it is looked at closely.
    if len(raw) > 2 * most:
        text = bytes(raw)
        if text.count(b",") >= most and _commas(text, most) >= most:
            raise InvalidRequestError(f"invalid request: more than {most} elements - at `$.{name}`", param=name)


def _is_object(content: bytes) -> bool:
    return content.lstrip()[:1] == b"{"


def _structure(content: bytes) -> bytes:
    """Brackets and commas outside strings."""
    if b"\\" in content:  # pairs first: what is left before a quote escapes it
        content = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(content.split(b'"')[::2]).translate(None, _NOT_STRUCTURE)


def _commas(content: bytes, enough: int) -> int:
    """Commas between the elements of an array or the members of an object, counted up to ``enough``."""
    depth = count = 0
    for byte in _structure(content):
        depth += _STEPS[byte]
        if depth == 1 and byte == ord(","):
            count += 1
            if count == enough:
                break
    return count
