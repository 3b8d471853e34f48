"""Messages of Ollama's chat as OpenAI's. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dmr_adapters.http.ollama.request import Message, ToolCall
from dmr_core.errors import InvalidRequestError

__all__ = ["content_of", "image_url", "is_elsewhere", "translate_messages"]

_MIMES: Final = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lG": "image/gif", "UklG": "image/webp"}
_ADDRESSES: Final = ("data:", "http://", "https://")


def image_url(image: str) -> str:
    """An image, base64 as Ollama has it, as the address of one; what is an address already stays one."""
    text = image.strip()
    if text.startswith(_ADDRESSES):
        return text
    kind = next((kind for begin, kind in _MIMES.items() if text.startswith(begin)), "image/jpeg")
    return f"data:{kind};base64,{text}"


def is_elsewhere(image: str) -> bool:
    """Whether an image is an address that an engine would have to fetch."""
    return image.strip().startswith(_ADDRESSES[1:])


def content_of(text: str, images: Sequence[str] | None) -> str | list[dict[str, Any]]:
    """The content of a message: text alone, or parts."""
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    return parts + [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]


def translate_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """``messages`` for an engine. Calls without an id get one, and results are given to calls by it, by the name of
    the tool, or in their order, which is how Ollama's clients tell them apart.

    Raises:
        InvalidRequestError: a call's arguments are no JSON object.
    """
    made: list[dict[str, Any]] = []
    waiting: deque[tuple[str, str]] = deque()
    count = 0
    for message in messages:
        document: dict[str, Any] = {
            "role": message.role,
            "content": content_of(message.content or "", message.images),
        }
        if message.thinking:
            document["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                identity = call.id or f"call_{count}"
                count += 1
                waiting.append((identity, call.function.name))
                calls.append(_call(call, identity))
            document["tool_calls"] = calls
        if message.role == "tool":
            document["tool_call_id"] = _answered(message, waiting)
            if named := message.tool_name or message.name:
                document["name"] = named
        elif message.name:
            document["name"] = message.name
        made.append(document)
    return made


def _answered(message: Message, waiting: deque[tuple[str, str]]) -> str:
    """The call that a result belongs to."""
    name = message.tool_name or message.name
    for entry in waiting:
        if entry[0] == message.tool_call_id or (message.tool_call_id is None and name in (None, entry[1])):
            waiting.remove(entry)
            return entry[0]
    return message.tool_call_id or (waiting.popleft()[0] if waiting else "call_0")


def _call(call: ToolCall, identity: str) -> dict[str, Any]:
    raw = bytes(call.function.arguments).strip()
    text = msgspec.json.decode(raw) if raw.startswith(b'"') else raw.decode()
    if text == "null":
        text = "{}"
    if not text.lstrip().startswith("{"):
        raise InvalidRequestError(
            f"invalid request: the arguments of the call of {call.function.name[:100]!r} are no object",
            param="messages",
        )
    return {"id": identity, "type": "function", "function": {"name": call.function.name, "arguments": text}}
