"""Items of a conversation: checked, named, and as messages of a chat.

A turn's input is kept in the form it is listed in (``/input_items``): every item has a type and an ID. Items that an
engine cannot be told are refused; there is no way to leave one out and still have the conversation that was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dmr_adapters.http.responses.names import new_id
from dmr_core.errors import InvalidRequestError

__all__ = ["chat_messages", "input_items"]

Item = dict[str, Any]
_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_MAX_ITEMS: Final = 100_000


def input_items(given: str | list[Item] | None) -> list[Item]:
    """The items of a turn, in the form that is kept.

    Raises:
        InvalidRequestError: an item is malformed, or of a kind that engines do not take; ``param`` says which.
    """
    if given is None:
        return []
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        return [_named({"type": "message", "role": "user", "content": content, "status": "completed"})]
    if len(given) > _MAX_ITEMS:
        raise InvalidRequestError(f"input holds {len(given)} items; {_MAX_ITEMS} are allowed", param="input")
    return [_item(item, f"input[{number}]") for number, item in enumerate(given)]


def _item(item: Item, where: str) -> Item:
    kind = item.get("type")
    if kind is None:
        kind = "function_call_output" if "call_id" in item else "message"
    if kind == "message":
        return _message(item, where)
    if kind == "function_call":
        call = {name: _text(item, name, where) for name in ("call_id", "name", "arguments")}
        return _named({**item, "type": kind, **call, "status": "completed"})
    if kind == "function_call_output":
        output = item.get("output")
        if not isinstance(output, str):
            output = [
                _part(part, f"{where}.output[{number}]") for number, part in enumerate(_list(item, "output", where))
            ]
        call_id = _text(item, "call_id", where)
        return _named({**item, "type": kind, "call_id": call_id, "output": output, "status": "completed"})
    if kind == "reasoning":
        return _named({"summary": [], **item, "type": kind})
    if kind == "item_reference":
        raise InvalidRequestError(
            f"{where}: item_reference is not supported; send the item itself, or use previous_response_id", param=where
        )
    raise InvalidRequestError(
        f"{where}: items of type {str(kind)[:100]!r} are not supported; use message, function_call, "
        "function_call_output or reasoning",
        param=where,
    )


def _message(item: Item, where: str) -> Item:
    role, content = item.get("role", "user"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequestError(
            f"{where}.role: {str(role)[:100]!r} is not a role; use user, assistant, system or developer",
            param=f"{where}.role",
        )
    if isinstance(content, str):
        part: Item = {"type": "output_text" if role == "assistant" else "input_text", "text": content}
        if role == "assistant":
            part["annotations"] = []
        parts = [part]
    else:
        parts = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(_list(item, "content", where))]
    return _named({**item, "type": "message", "role": role, "content": parts, "status": "completed"})


def _part(part: object, where: str) -> Item:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if not isinstance(part, dict):
        raise InvalidRequestError(f"{where}: expected an object", param=where)
    _chat_part(part, where)
    return part


def _named(item: Item) -> Item:
    if not isinstance(item.get("id"), str) or not item["id"]:
        item["id"] = new_id(_PREFIXES[item["type"]])
    return item


def _text(item: Item, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or (not value and name != "arguments"):
        raise InvalidRequestError(f"{where}.{name} is required, and is a string", param=f"{where}.{name}")
    return value


def _list(item: Item, name: str, where: str) -> list[Any]:
    value = item.get(name)
    if not isinstance(value, list):
        raise InvalidRequestError(f"{where}.{name}: expected a string or a list of parts", param=f"{where}.{name}")
    return value


# --- as a chat


def chat_messages(items: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Messages that say the same. Calls that follow each other, or what the assistant said, are one message with it."""
    messages: list[Item] = []
    thoughts: list[str] = []
    for item in items:
        match item["type"]:
            case "reasoning":
                thoughts.extend(_thoughts(item))
                continue
            case "function_call":
                last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
                if last is None:
                    last = {"role": "assistant", "content": None}
                    messages.append(last)
                last.setdefault("tool_calls", []).append(_call(item))
                if thoughts:  # how it came to a call is part of the turn that the call is in
                    last["reasoning_content"] = "\n".join(thoughts)
            case "function_call_output":
                output = item["output"]
                content = output if isinstance(output, str) else _chat_content(output)
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
            case _:
                role = "system" if item["role"] == "developer" else item["role"]
                messages.append({"role": role, "content": _chat_content(item["content"])})
                if role == "assistant":
                    continue  # thoughts may yet lead to a call
        thoughts = []
    return messages


def _call(item: Mapping[str, Any]) -> Item:
    function = {"name": item["name"], "arguments": item["arguments"] or "{}"}
    return {"id": item["call_id"], "type": "function", "function": function}


def _thoughts(item: Mapping[str, Any]) -> list[str]:
    parts = item.get("content") or item.get("summary")
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [text for text in texts if isinstance(text, str)]


def _chat_content(parts: list[Item]) -> str | list[Item]:
    """One text as text, which every chat template takes. How several are put together is the engine's to know."""
    made = [_chat_part(part, "input") for part in parts]
    if len(made) == 1 and made[0]["type"] == "text":
        return str(made[0]["text"])
    return made or ""


def _chat_part(part: Item, where: str) -> Item:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
        return {"type": "text", "text": _string(part, "text", where)}
    if kind == "refusal":
        return {"type": "text", "text": _string(part, "refusal", where)}
    make = _MEDIA.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise InvalidRequestError(
            f"{where}: parts of type {str(kind)[:100]!r} are not supported; use input_text, output_text, input_image "
            "or input_audio",
            param=where,
        )
    return make(part, where)


def _image(part: Item, where: str) -> Item:
    url = part.get("image_url")
    if isinstance(url, dict):  # as chat completions write it
        url = url.get("url")
    if not isinstance(url, str) or not url:
        raise InvalidRequestError(
            f"{where}.image_url is required: a data: URL (no files are kept here, so file_id names nothing)",
            param=f"{where}.image_url",
        )
    image: Item = {"url": url}
    if isinstance(part.get("detail"), str):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _audio(part: Item, where: str) -> Item:
    audio = part.get("input_audio")
    if not isinstance(audio, dict) or not all(isinstance(audio.get(name), str) for name in ("data", "format")):
        raise InvalidRequestError(f"{where}.input_audio needs data and format", param=f"{where}.input_audio")
    return {"type": "input_audio", "input_audio": {"data": audio["data"], "format": audio["format"]}}


def _string(part: Item, name: str, where: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where}.{name} is required, and is a string", param=f"{where}.{name}")
    return value


_MEDIA: Final[dict[str, Callable[[Item, str], Item]]] = {
    "input_image": _image,
    "image_url": _image,
    "input_audio": _audio,
}
