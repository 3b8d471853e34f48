"""The chat completion that a response is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from dmr_adapters.http.responses.request import CreateRequest
from dmr_core.errors import InvalidRequestError

__all__ = ["chat_body", "check_tools", "text_format"]

_SCHEMA_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FUNCTION_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_CHOICES: Final = ("none", "auto", "required")


def chat_body(request: CreateRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What to ask an engine for; only fields that were asked for are in it.

    Raises:
        InvalidRequestError: the tools, the choice among them, or the text's format cannot be asked for; says which.
    """
    if request.instructions:
        messages = [{"role": "system", "content": request.instructions}, *messages]
    tools, choice = _tools(request)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    optional = {
        "tools": tools or None,
        "tool_choice": choice if tools else None,
        "parallel_tool_calls": request.parallel_tool_calls if tools else None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_output_tokens,
        "response_format": _response_format(request),
        "reasoning_effort": request.effort,
        "user": request.user,
        "keep_alive": request.keep_alive,
    }
    body.update((name, value) for name, value in optional.items() if value is not None)
    if request.wants_logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    if request.stream or request.background:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def check_tools(request: CreateRequest) -> list[dict[str, Any]]:
    """The tools as they are echoed in an answer: flat, as this API writes them.

    Raises:
        InvalidRequestError: one is no function, or is malformed.
    """
    return [_tool(tool, f"tools[{number}]") for number, tool in enumerate(request.tools or ())]


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise InvalidRequestError(
            f"{where}: tool type {str(tool.get('type'))[:100]!r} is not supported: this service runs no tools of its own; "
            "describe what your program can do as tools of type function",
            param=where,
        )
    given = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name, parameters = given.get("name"), given.get("parameters")
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{where}.name: {str(name)[:100]!r} is no name of a function; use letters, digits, '_', '-' and '.'",
            param=f"{where}.name",
        )
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequestError(f"{where}.parameters: expected a JSON schema", param=f"{where}.parameters")
    description, strict = given.get("description"), given.get("strict")
    if description is not None and not isinstance(description, str):
        raise InvalidRequestError(f"{where}.description: expected a string", param=f"{where}.description")
    made = {"type": "function", "name": name, "description": description, "parameters": parameters}
    return {**made, "strict": strict if isinstance(strict, bool) else False}


def _tools(request: CreateRequest) -> tuple[list[dict[str, Any]], str | dict[str, Any] | None]:
    """Tools and the choice among them, as chat completions write them."""
    tools = check_tools(request)
    choice = request.tool_choice
    chosen: str | dict[str, Any] | None
    if isinstance(choice, dict):
        tools, chosen = _choose(choice, tools)
    elif choice is None or choice in _CHOICES:
        chosen = choice
    else:
        raise InvalidRequestError(
            f"tool_choice: {choice[:100]!r} is not known; use none, auto, required, or name a function",
            param="tool_choice",
        )
    if chosen not in (None, "none", "auto") and not tools:
        raise InvalidRequestError("tool_choice demands a tool, and tools names none", param="tool_choice")
    functions = [
        {name: value for name, value in tool.items() if name != "type" and value is not None} for tool in tools
    ]
    return [{"type": "function", "function": function} for function in functions], chosen


def _choose(
    choice: Mapping[str, Any], tools: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], str | dict[str, Any]]:
    kind = choice.get("type")
    if kind == "function":
        given = choice["function"] if isinstance(choice.get("function"), dict) else choice
        name = given.get("name")
        if name not in [tool["name"] for tool in tools]:
            raise InvalidRequestError(
                f"tool_choice: there is no function {str(name)[:100]!r} in tools", param="tool_choice"
            )
        return tools, {"type": "function", "function": {"name": name}}
    allowed, mode = choice.get("tools"), choice.get("mode", "auto")
    if kind == "allowed_tools" and isinstance(allowed, list) and mode in ("auto", "required"):
        names = [tool.get("name") for tool in allowed if isinstance(tool, dict)]
        return [tool for tool in tools if tool["name"] in names], mode
    raise InvalidRequestError(
        f"tool_choice: type {str(kind)[:100]!r} is not supported; use function or allowed_tools", param="tool_choice"
    )


def text_format(request: CreateRequest) -> dict[str, Any]:
    """The text's format as it is echoed in an answer.

    Raises:
        InvalidRequestError: it is none that can be asked for.
    """
    given = (request.text.format if request.text is not None else None) or {"type": "text"}
    kind = given.get("type", "text")
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema":
        raise InvalidRequestError(
            f"unsupported text.format.type {str(kind)[:100]!r}; use text, json_object or json_schema",
            param="text.format.type",
        )
    given = {**given, **given["json_schema"]} if isinstance(given.get("json_schema"), dict) else given
    name, schema, strict = given.get("name"), given.get("schema"), given.get("strict")
    if not name:
        raise InvalidRequestError(
            "text.format.name is required when text.format.type is json_schema", param="text.format.name"
        )
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise InvalidRequestError(
            "text.format.name must contain only letters, numbers, underscores, and dashes, with a maximum length of 64",
            param="text.format.name",
        )
    if schema is None:
        raise InvalidRequestError(
            "text.format.schema is required when text.format.type is json_schema", param="text.format.schema"
        )
    if not isinstance(schema, dict):
        raise InvalidRequestError("text.format.schema must be a JSON object", param="text.format.schema")
    description = given.get("description")
    made = {"type": kind, "name": name, "schema": schema, "strict": strict if isinstance(strict, bool) else False}
    return {**made, "description": description if isinstance(description, str) else None}


def _response_format(request: CreateRequest) -> dict[str, Any] | None:
    wanted = text_format(request)
    if wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object":
        return wanted
    schema = {name: value for name, value in wanted.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}
