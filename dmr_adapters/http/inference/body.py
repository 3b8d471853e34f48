"""The one decode of a request: the fields that dmr itself needs, and no others."""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from dmr_adapters.http.inference.bounds import check_fields, check_shape
from dmr_adapters.http.inference.media import check_media
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError, InvalidRequestError

__all__ = ["Body", "decode_body", "read_keep_alive", "with_model"]

_MAX_SECONDS: Final = 2**63 / 1e9  # as in Go's durations, about 292 years


@attrs.define(eq=False)
class Body:
    """What was asked for: the model, for how long to keep it, and every field of the body, not decoded any further.

    ``keep_alive`` is dmr's (and Ollama's) own: engines pass over it.
    """

    model: str
    keep_alive: str | int | float | None
    fields: dict[str, msgspec.Raw]


_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str | None).decode
_duration: Final = msgspec.json.Decoder(str | int | float | None).decode


def decode_body(content: bytes, *, allow_remote_media: bool = False) -> Body:
    """The one decode of a body.

    Raises:
        InvalidRequestError: it is no JSON object, names no model, a field has the wrong type or is out of bounds, or it
            names media elsewhere; says which.
    """
    check_shape(content)
    field = None
    try:
        fields = _fields(content)
        field = "model"
        model = _text(fields["model"]) if "model" in fields else None
        field = "keep_alive"
        keep_alive = _duration(fields["keep_alive"]) if "keep_alive" in fields else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        where = f" - at `$.{field}`" if field else ""
        raise InvalidRequestError(f"invalid request: {exc}{where}", param=field) from exc
    if not model:
        raise InvalidRequestError("model is required", param="model")
    check_fields(fields)
    check_media(content, allow_remote=allow_remote_media)
    return Body(model, keep_alive, fields)


def with_model(content: bytes, name: str) -> bytes:
    """``content``, a request that was decoded before, asking for ``name`` instead; no other member is touched."""
    return msgspec.json.encode({**_fields(content), "model": name})


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
