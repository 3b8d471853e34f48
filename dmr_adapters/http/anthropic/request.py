"""From a request of Anthropic's to a chat completion. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import msgspec
import orjson

from dmr_adapters.http.anthropic.document import (
    Base64Source,
    Document,
    Image,
    Message,
    MessagesRequest,
    RedactedThinking,
    Text,
    TextSource,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    UrlSource,
    decode_messages,
)
from dmr_adapters.http.fidelity import INERT, Fidelity
from dmr_core.errors import InvalidRequestError

__all__ = ["Translation", "read_request", "translate"]

Json = dict[str, Any]

_CHAT: Final = "/v1/chat/completions"
_KNOWN: Final = frozenset(MessagesRequest.__struct_fields__)
_MAX_INT: Final = 2**31 - 1
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_TEXT_TYPES: Final = ("text/plain", "text/markdown", "text/csv", "text/html")


@attrs.frozen
class Translation:
    """A request for a chat completion, and what could not be put into it."""

    chat: Json
    fidelity: Fidelity

    @property
    def body(self) -> bytes:
        """What goes to the engine."""
        return orjson.dumps(self.chat)


def read_request(content: bytes) -> MessagesRequest:
    """The request in a body.

    Raises:
        InvalidRequestError: it has not the form Anthropic documents; says where.
    """
    try:
        return decode_messages(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError(f"invalid request: {exc}") from exc


def translate(
    request: MessagesRequest,
    fields: Mapping[str, msgspec.Raw],
    honours: Callable[[str], bool] = lambda _field: True,
    *,
    remote_media: bool = False,
) -> Translation:
    """The chat completion that asks for the same.

    ``fields`` are those at the top of the body. ``honours`` tells which fields of a chat completion the engine
    honours; what it does not is left out, and noted. Fields Anthropic does not have go to an engine that knows them.
    ``remote_media`` lets the engine fetch pictures from the addresses that are named.

    Raises:
        InvalidRequestError: a part of it cannot be put into a chat; says which.
    """
    fidelity = Fidelity()
    chat: Json = {"model": request.model, "messages": _Turns(fidelity, remote_media).of(request)}

    def put(field: str, value: object, origin: str) -> None:
        if value is None:
            return
        if honours(field):
            chat[field] = value
        else:
            fidelity.ignored.append(origin)

    put("max_tokens", _length(request), "max_tokens")
    put("temperature", request.temperature, "temperature")
    put("top_p", request.top_p, "top_p")
    put("top_k", request.top_k, "top_k")
    put("stop", request.stop_sequences or None, "stop_sequences")
    if request.stream:
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    _tools(request, put, fidelity)
    _thinking(request, put)
    _output(request, put)
    if _prefilled(request):
        # Servers other than llama.cpp's continue a last turn of the assistant's only when told to.
        if honours("continue_final_message") and honours("add_generation_prompt"):
            chat |= {"continue_final_message": True, "add_generation_prompt": False}
        else:
            fidelity.ignored.append(f"messages[{len(request.messages) - 1}]")
    for name, value in fields.items():
        if name not in _KNOWN and name not in INERT and value != msgspec.Raw(b"null"):
            if honours(name) and name not in chat:
                chat[name] = orjson.Fragment(bytes(value))
            else:
                fidelity.ignored.append(name)
    return Translation(chat, fidelity)


def _length(request: MessagesRequest) -> int | None:
    length = request.max_tokens
    if length is not None and not 1 <= length <= _MAX_INT:
        raise InvalidRequestError(f"max_tokens: must be from 1 to {_MAX_INT}", param="max_tokens")
    return length


def _prefilled(request: MessagesRequest) -> bool:
    """Whether the model is to go on where the last turn, its own, ends."""
    last = request.messages[-1] if request.messages else None
    if last is None or last.role != "assistant":
        return False
    return isinstance(last.content, str) or not any(isinstance(block, ToolUse) for block in last.content)


def _tools(request: MessagesRequest, put: Callable[[str, object, str], None], fidelity: Fidelity) -> None:
    offered = []
    for index, tool in enumerate(request.tools or ()):
        if tool.type in (None, "custom"):
            offered.append(_tool(tool))
        else:  # runs at Anthropic, or is known to its models alone
            fidelity.ignored.append(f"tools[{index}]")
    choice = request.tool_choice
    if choice is None:
        put("tools", offered or None, "tools")
        return
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequestError("tool_choice.name: required with the type 'tool'", param="tool_choice")
        # Not every engine takes a tool by its name; with one tool to choose from, all do.
        offered = [tool for tool in offered if tool["function"]["name"] == choice.name]
        if not offered:
            raise InvalidRequestError(f"tool_choice.name: no tool is called {choice.name[:100]!r}", param="tool_choice")
        chosen = "required"
    elif choice.type in _CHOICES:
        chosen = _CHOICES[choice.type]
    else:
        raise InvalidRequestError(
            f"tool_choice.type: {choice.type[:100]!r} is none of auto, any, tool, none", param="tool_choice"
        )
    put("tools", offered or None, "tools")
    if offered:
        put("tool_choice", chosen, "tool_choice")
        if choice.disable_parallel_tool_use:
            put("parallel_tool_calls", False, "tool_choice.disable_parallel_tool_use")
    elif choice.type in ("any", "tool"):
        raise InvalidRequestError("tool_choice: there is no tool to choose", param="tool_choice")


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema if tool.input_schema is not None else {"type": "object"}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _thinking(request: MessagesRequest, put: Callable[[str, object, str], None]) -> None:
    asked = request.thinking
    if asked is None:
        return
    if asked.type not in ("enabled", "disabled", "adaptive"):
        raise InvalidRequestError(
            f"thinking.type: {asked.type[:100]!r} is none of enabled, disabled, adaptive", param="thinking"
        )
    put("chat_template_kwargs", {"enable_thinking": asked.type != "disabled"}, "thinking")
    if asked.budget_tokens is not None and asked.type == "enabled":
        if not 0 <= asked.budget_tokens <= _MAX_INT:
            raise InvalidRequestError("thinking.budget_tokens: out of range", param="thinking")
        put("reasoning_budget_tokens", asked.budget_tokens, "thinking.budget_tokens")


def _output(request: MessagesRequest, put: Callable[[str, object, str], None]) -> None:
    config = request.output_config
    form = (config.format if config is not None else None) or request.output_format
    if form is not None:
        if form.type != "json_schema" or form.schema is None:
            raise InvalidRequestError(
                "output_config.format: needs the type 'json_schema' and a schema", param="output_config"
            )
        schema = {"name": "output", "schema": form.schema, "strict": True}
        put("response_format", {"type": "json_schema", "json_schema": schema}, "output_config.format")
    if config is not None and config.effort is not None:
        put("reasoning_effort", config.effort, "output_config.effort")


@attrs.frozen
class _Turns:
    """The turns of a conversation as messages of a chat."""

    fidelity: Fidelity
    remote_media: bool

    def of(self, request: MessagesRequest) -> list[Json]:
        found: list[Json] = []
        if request.system:
            system = request.system
            text = system if isinstance(system, str) else "\n".join(block.text for block in system)
            found.append({"role": "system", "content": text})
        for index, message in enumerate(request.messages):
            where = f"messages[{index}]"
            if message.role == "assistant":
                found.append(self._assistant(message, where))
            elif message.role == "user":
                found.extend(self._user(message, where))
            elif message.role == "system":
                found.append({"role": "system", "content": _words(message, where)})
            else:
                raise InvalidRequestError(
                    f"{where}.role: {message.role[:100]!r} is neither 'user' nor 'assistant'", param="messages"
                )
        return found

    def _assistant(self, message: Message, where: str) -> Json:
        if isinstance(message.content, str):
            return {"role": "assistant", "content": message.content}
        text, thoughts, calls = [], [], []
        for index, block in enumerate(message.content):
            if isinstance(block, Text):
                text.append(block.text)
            elif isinstance(block, Thinking):
                thoughts.append(block.thinking)
            elif isinstance(block, ToolUse):
                function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif isinstance(block, RedactedThinking):
                self.fidelity.ignored.append(f"{where}.content[{index}]")
            else:
                raise _misplaced(block, f"{where}.content[{index}]", "assistant")
        turn: Json = {"role": "assistant", "content": "".join(text) if text or not calls else None}
        if thoughts:
            turn["reasoning_content"] = "".join(thoughts)
        if calls:
            turn["tool_calls"] = calls
        return turn

    def _user(self, message: Message, where: str) -> Iterator[Json]:
        """Results of tools are messages of their own, and come first; the rest of the turn follows."""
        if isinstance(message.content, str):
            yield {"role": "user", "content": message.content}
            return
        parts: list[Json] = []
        for index, block in enumerate(message.content):
            place = f"{where}.content[{index}]"
            if isinstance(block, ToolResult):
                text, media = self._result(block, place)
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
                parts.extend(media)  # a tool's message has text alone
            elif isinstance(block, Text | Image | Document):
                parts.append(self._part(block, place))
            else:
                raise _misplaced(block, place, "user")
        if parts and all(part["type"] == "text" for part in parts):
            yield {"role": "user", "content": "\n".join(part["text"] for part in parts)}
        elif parts:
            yield {"role": "user", "content": parts}

    def _result(self, block: ToolResult, where: str) -> tuple[str, list[Json]]:
        if block.content is None or isinstance(block.content, str):
            parts: list[Json] = [{"type": "text", "text": block.content or ""}]
        else:
            parts = [self._part(part, f"{where}.content[{i}]") for i, part in enumerate(block.content)]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if block.is_error:
            self.fidelity.emulated.append(f"{where}.is_error")
            text = f"Error: {text}" if text else "Error"
        return text, [part for part in parts if part["type"] != "text"]

    def _part(self, block: Text | Image | Document, where: str) -> Json:
        if isinstance(block, Text):
            return {"type": "text", "text": block.text}
        if isinstance(block, Document):
            return {"type": "text", "text": self._plain(block, where)}
        source = block.source
        if isinstance(source, UrlSource) and self.remote_media:
            return {"type": "image_url", "image_url": {"url": source.url}}
        if not isinstance(source, Base64Source):
            raise InvalidRequestError(
                f"{where}.source: pictures have to be in the request, with the type 'base64'; nothing is fetched for a client",
                param="messages",
            )
        if not source.media_type.startswith("image/"):
            raise InvalidRequestError(f"{where}.source.media_type: is no picture's", param="messages")
        _decoded(source.data, where)
        return {"type": "image_url", "image_url": {"url": f"data:{source.media_type};base64,{source.data}"}}

    def _plain(self, block: Document, where: str) -> str:
        source = block.source
        if isinstance(source, TextSource):
            text = source.data
        elif isinstance(source, Base64Source) and source.media_type in _TEXT_TYPES:
            text = _decoded(source.data, where).decode("utf-8", "replace")
        else:
            raise InvalidRequestError(
                f"{where}.source: only plain text can be given to this engine as a document", param="messages"
            )
        self.fidelity.emulated.append(where)
        return "\n".join(part for part in (block.title, block.context, text) if part)


def _words(message: Message, where: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if not all(isinstance(block, Text) for block in message.content):
        raise InvalidRequestError(f"{where}.content: the role 'system' has text alone", param="messages")
    return "\n".join(block.text for block in message.content if isinstance(block, Text))


def _decoded(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequestError(f"{where}.source.data: is not base64 ({exc})", param="messages") from exc


def _misplaced(block: object, where: str, role: str) -> InvalidRequestError:
    kind = getattr(type(block), "__struct_config__").tag  # noqa: B009 - msgspec's, which the type checker does not know
    return InvalidRequestError(f"{where}: a {kind!r} block cannot be said by the {role}", param="messages")
