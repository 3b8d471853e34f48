"""What a request demands of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

__all__ = ["Demand", "chat_demand", "messages_demand"]

Json = Any

_decode: Final = msgspec.json.Decoder().decode


@attrs.frozen(kw_only=True)
class Demand:
    """``output`` is the schema of the text, ``tools`` the schemas of the arguments, by name; ``None`` is no demand.

    ``call`` is the tool that has to be called, ``""`` for any of them; ``single`` allows one call at most.
    """

    output: Json = None
    tools: Mapping[str, Json] | None = None
    call: str | None = None
    single: bool = False


def chat_demand(fields: Mapping[str, msgspec.Raw]) -> Demand | None:
    """The demand of a chat completion (OpenAI); ``None`` where there is none. Whatever has not its form demands nothing:
    to refuse it is for the engine.
    """
    if "response_format" not in fields and "tools" not in fields:
        return None
    output = _format(_object(_value(fields, "response_format")))
    tools: dict[str, Json] = {}
    for tool in _list(_value(fields, "tools")):
        function = _object(_object(tool).get("function"))
        if isinstance(function.get("name"), str):
            tools[function["name"]] = function.get("parameters")
    choice = _value(fields, "tool_choice")
    call = "" if choice == "required" else None
    if isinstance(choice, dict):
        name = _object(choice.get("function")).get("name")
        call = name if isinstance(name, str) else None
    if choice == "none":
        tools = {}
    single = _value(fields, "parallel_tool_calls") is False
    offered = tools if "tools" in fields else None
    return Demand(output=output, tools=offered, call=call if tools else None, single=single)


def messages_demand(fields: Mapping[str, msgspec.Raw]) -> Demand | None:
    """The demand of a message (Anthropic); see :func:`chat_demand`."""
    if not {"output_config", "output_format", "tools"} & fields.keys():
        return None
    output = _object(_object(_value(fields, "output_config")).get("format")) or _object(_value(fields, "output_format"))
    tools: dict[str, Json] = {}
    for tool in _list(_value(fields, "tools")):
        name = _object(tool).get("name")
        if isinstance(name, str):
            tools[name] = tool.get("input_schema")
    choice = _object(_value(fields, "tool_choice"))
    call = {"any": "", "tool": choice.get("name")}.get(str(choice.get("type")))
    return Demand(
        output=output.get("schema") if output.get("type") == "json_schema" else None,
        tools={} if choice.get("type") == "none" else tools if "tools" in fields else None,
        call=call if tools and isinstance(call, str) else None,
        single=choice.get("disable_parallel_tool_use") is True,
    )


def _format(asked: Mapping[str, Json]) -> Json:
    if asked.get("type") == "json_object":
        return asked.get("schema", {"type": "object"})
    if asked.get("type") == "json_schema":
        return _object(asked.get("json_schema")).get("schema", {})
    return None


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Json:
    raw = fields.get(name)
    return None if raw is None else _decode(raw)


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
