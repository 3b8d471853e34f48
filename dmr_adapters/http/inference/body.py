"""The one decode of a request: the fields that dmr itself needs, and no others."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError, InvalidRequestError

__all__ = ["Body", "decode_body", "read_keep_alive"]

_PARAM: Final = re.compile(r"at `\$\.(\w+)`")
_MAX_SECONDS: Final = 2**63 / 1e9  # as in Go's durations, about 292 years


class Body(msgspec.Struct):
    """What was asked for. ``keep_alive`` is dmr's (and Ollama's) own: engines pass over it."""

    model: str | None = None
    keep_alive: str | int | float | None = None


_decode: Final = msgspec.json.Decoder(Body).decode


def decode_body(content: bytes) -> tuple[str, str | int | float | None]:
    """The model that is asked for, and how long to keep it.

    Raises:
        InvalidRequestError: it is no JSON object, names no model, or a field has the wrong type; says which.
    """
    try:
        body = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        field = _PARAM.search(str(exc))
        raise InvalidRequestError(f"invalid request: {exc}", param=field[1] if field else None) from exc
    if not body.model:
        raise InvalidRequestError("model is required", param="model")
    return body.model, body.keep_alive


def read_keep_alive(value: str | float) -> KeepAlive:
    """A duration in Go's notation, or a number of seconds as Ollama takes it; anything negative is for ever.

    Raises:
        InvalidConfigurationError: it is neither.
    """
    if isinstance(value, str):
        return KeepAlive.parse(value)
    if value < 0:
        return KeepAlive.forever()
    if value > _MAX_SECONDS:
        raise InvalidConfigurationError(
            f"invalid keep_alive {value!r}: use a number of seconds, 0 to unload at once, or -1 to keep the model loaded",
            param="keep_alive",
        )
    return KeepAlive(float(value))
