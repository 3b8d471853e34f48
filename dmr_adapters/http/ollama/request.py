"""Bodies of Ollama's API, read into checked values. A field that is ``null`` is not there; unknown ones are named, not read."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec

from dmr_adapters.http.inference.bounds import check_shape
from dmr_core.errors import InvalidRequestError

__all__ = [
    "ChatBody",
    "CopyBody",
    "CreateBody",
    "EmbedBody",
    "EmbeddingsBody",
    "GenerateBody",
    "InferenceBody",
    "Message",
    "NameBody",
    "ToolCall",
    "TransferBody",
    "named",
    "read",
]

_T = TypeVar("_T", bound=msgspec.Struct)
_Meta = msgspec.Meta
_MOST_MESSAGES: Final = 16_384
_MOST_TOOLS: Final = 1_024
_MOST_INPUTS: Final = 16_384
_MOST_TOKENS: Final = 1_048_576

KeepAlive = str | int | float | None
Options = dict[str, Any] | None


class Function(msgspec.Struct):
    """What a model called; ``arguments`` are JSON, an object or the text of one."""

    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class ToolCall(msgspec.Struct):
    """A call. Ollama's older clients know no ``id``."""

    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: Annotated[list[ToolCall], _Meta(max_length=_MOST_TOOLS)] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class Tool(msgspec.Struct):
    """A tool that may be called; ``function`` goes to the engine as it is."""

    function: dict[str, msgspec.Raw]
    type: str | None = None


class InferenceBody(msgspec.Struct, kw_only=True):
    """What every request to a model may have."""

    model: str | None = None
    name: str | None = None
    options: Options = None
    keep_alive: KeepAlive = None


class AnswerBody(InferenceBody, kw_only=True):
    """What every request for text may have."""

    stream: bool | None = None
    think: bool | str | None = None
    format: msgspec.Raw = msgspec.Raw()
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _Meta(ge=0, le=20)] | None = None
    truncate: bool | None = None
    shift: bool | None = None


class ChatBody(AnswerBody, kw_only=True):
    """``POST /api/chat``."""

    messages: Annotated[list[Message], _Meta(max_length=_MOST_MESSAGES)] | None = None
    tools: Annotated[list[Tool], _Meta(max_length=_MOST_TOOLS)] | None = None


class GenerateBody(AnswerBody, kw_only=True):
    """``POST /api/generate``."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: Annotated[list[Annotated[int, _Meta(ge=0, le=2**31 - 1)]], _Meta(max_length=_MOST_TOKENS)] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class EmbedBody(InferenceBody, kw_only=True):
    """``POST /api/embed``."""

    input: str | Annotated[list[str], _Meta(max_length=_MOST_INPUTS)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, _Meta(ge=0, le=65_536)] | None = None


class EmbeddingsBody(InferenceBody, kw_only=True):
    """``POST /api/embeddings``, the older one."""

    prompt: str | None = None


class NameBody(msgspec.Struct, kw_only=True):
    """``POST /api/show`` and ``DELETE /api/delete``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: Options = None


class CopyBody(msgspec.Struct, kw_only=True):
    """``POST /api/copy``."""

    source: str | None = None
    destination: str | None = None


class TransferBody(msgspec.Struct, kw_only=True):
    """``POST /api/pull`` and ``/api/push``."""

    model: str | None = None
    name: str | None = None
    insecure: bool | None = None
    stream: bool | None = None


class CreateBody(msgspec.Struct, kw_only=True, rename={"from_": "from"}):
    """``POST /api/create``. ``from`` is a keyword in Python."""

    model: str | None = None
    name: str | None = None
    from_: str | None = None
    files: Annotated[dict[str, str], _Meta(max_length=256)] | None = None
    adapters: Annotated[dict[str, str], _Meta(max_length=64)] | None = None
    template: str | None = None
    license: str | Annotated[list[str], _Meta(max_length=64)] | None = None
    system: str | None = None
    parameters: Options = None
    messages: Annotated[list[Message], _Meta(max_length=_MOST_MESSAGES)] | None = None
    quantize: str | None = None
    stream: bool | None = None


def read(content: bytes, kind: type[_T]) -> tuple[_T, list[str]]:
    """A body, and the names of the fields in it that nobody reads.

    Raises:
        InvalidRequestError: it is no JSON object, or a field has the wrong type or is out of bounds; says which.
    """
    if not content.strip():
        raise InvalidRequestError("missing request body")
    check_shape(content)
    try:
        content.decode()  # what is passed on unread must be text as well
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        body = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError(f"invalid request: {exc}") from exc
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    return body, [name for name, value in fields.items() if name not in known and bytes(value) != b"null"]


def named(body: Any) -> str:
    """The model a body names; ``name``, the older word, wins, as it does in the reference.

    Raises:
        InvalidRequestError: it names none.
    """
    found: str | None = body.name or body.model
    if not found:
        raise InvalidRequestError("model is required", param="model")
    return found
