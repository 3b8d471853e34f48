"""What an answer holds that has to be looked at, and what is wrong at first sight. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from dmr_adapters.http.strictness.demand import Demand
from dmr_core.errors import AnswerViolationError

__all__ = ["Case", "chat_cases", "messages_cases"]

Json = Any


@attrs.frozen
class Case:
    """A value of an answer, the place it stands at, and the schema it has to follow."""

    where: str
    schema: Json
    value: Json


def chat_cases(demand: Demand, content: bytes) -> list[Case]:
    """Everything in a chat completion that ``demand`` has a schema for.

    An answer that was cut (``length``) or withheld (``content_filter``) says so itself, and is not looked at.

    Raises:
        AnswerViolationError: a call of a tool nobody offered, no call where one was demanded, or text that is no JSON.
    """
    cases: list[Case] = []
    for index, choice in enumerate(_objects(_parsed(content).get("choices"))):
        if choice.get("finish_reason") in ("length", "content_filter"):
            continue
        message = _object(choice.get("message"))
        where = f"choices[{index}].message"
        calls = []
        for number, call in enumerate(_objects(message.get("tool_calls"))):
            function = _object(call.get("function"))
            place = f"{where}.tool_calls[{number}].function"
            calls.append((place, str(function.get("name")), _json(function.get("arguments"), f"{place}.arguments")))
        cases.extend(_calls(demand, calls, where))
        if demand.output is not None and not calls:
            place = f"{where}.content"
            cases.append(Case(place, demand.output, _json(message.get("content"), place)))
    return cases


def messages_cases(demand: Demand, content: bytes) -> list[Case]:
    """As :func:`chat_cases`, of an Anthropic message."""
    answer = _parsed(content)
    if answer.get("stop_reason") in ("max_tokens", "refusal", "model_context_window_exceeded"):
        return []
    blocks = _objects(answer.get("content"))
    calls = [
        (f"content[{index}]", str(block.get("name")), block.get("input"))
        for index, block in enumerate(blocks)
        if block.get("type") == "tool_use"
    ]
    cases = list(_calls(demand, calls, "content"))
    if demand.output is not None and not calls:
        text = "".join(str(block.get("text")) for block in blocks if block.get("type") == "text")
        cases.append(Case("content", demand.output, _json(text, "content")))
    return cases


def _calls(demand: Demand, calls: list[tuple[str, str, Json]], where: str) -> Iterator[Case]:
    if demand.call is not None and not any(demand.call in ("", name) for _, name, _ in calls):
        what = f"the tool {demand.call!r}" if demand.call else "a tool"
        raise AnswerViolationError(f"the answer does not call {what}, as it was told to", where=where)
    if demand.single and len(calls) > 1:
        raise AnswerViolationError(f"the answer calls {len(calls)} tools where one was allowed", where=where)
    for place, name, value in calls:
        if demand.tools is None or name not in demand.tools:
            raise AnswerViolationError(f"the answer calls {name[:100]!r}, a tool nobody offered", where=place)
        schema = demand.tools[name]
        if schema is not None:
            yield Case(place, schema, value)


def _json(text: Json, where: str) -> Json:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (TypeError, ValueError, RecursionError) as exc:
        raise AnswerViolationError(f"{where} is not JSON: {exc}", where=where) from exc


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _parsed(content: bytes) -> dict[str, Json]:
    try:
        return _object(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise AnswerViolationError(f"the engine's answer is not JSON: {exc}") from exc


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
