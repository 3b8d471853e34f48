"""What became of the fields of a request, in the names of this API; see :mod:`dmr_adapters.http.fidelity`."""

from __future__ import annotations

from typing import Final

import msgspec

from dmr_adapters.http.fidelity import INERT, Fidelity
from dmr_adapters.http.responses.request import CreateRequest
from dmr_core.errors import InvalidRequestError

__all__ = ["fidelity_of", "field_name", "told"]

_NAMES: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
}
"""Fields of a chat completion, and what they were made of."""
_KNOWN: Final = frozenset(CreateRequest.__struct_fields__) | INERT
_IGNORED: Final = b"dmr-ignored"
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NULL: Final = msgspec.Raw(b"null")


def field_name(name: str) -> str:
    """What a field of a chat completion is called here."""
    return _NAMES.get(name, name)


def fidelity_of(content: bytes, request: CreateRequest) -> Fidelity:
    """What of a request does not even get to an engine. ``content`` is the body that ``request`` was decoded from.

    Raises:
        InvalidRequestError: the name of a field that nobody knows is no text.
    """
    try:
        fields = _fields(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"invalid request: {exc}") from exc
    ignored = [name for name, value in fields.items() if name not in _KNOWN and value != _NULL]
    if request.text is not None and request.text.verbosity is not None:
        ignored.append("text.verbosity")
    if request.reasoning is not None and (request.reasoning.summary or request.reasoning.generate_summary):
        ignored.append("reasoning.summary")
    if "reasoning.encrypted_content" in (request.include or ()):
        ignored.append("include[reasoning.encrypted_content]")
    return Fidelity(ignored=ignored, emulated=["truncation"] if request.truncation == "auto" else [])


def told(headers: list[tuple[bytes, bytes]], fidelity: Fidelity) -> list[tuple[bytes, bytes]]:
    """The headers of an engine's answer, with what became of fields that it never saw."""
    theirs = b"".join(value for name, value in headers if name == _IGNORED).decode("ascii", "replace")
    names = [field_name(name) for name in theirs.split(", ") if name]
    both = Fidelity(ignored=[*fidelity.ignored, *names], clamped=fidelity.clamped, emulated=fidelity.emulated)
    return [*((name, value) for name, value in headers if name != _IGNORED), *both.headers()]
