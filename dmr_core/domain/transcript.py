"""Folding a streamed answer into the one the client would have got without streaming.

Server-sent events are those of the WHATWG HTML standard (section 9.2). Understood are OpenAI's chat and legacy
completions, OpenAI's responses, and Anthropic's messages. Whatever does not look as it should is passed over: this
shows people what was said, and must not fail for what an engine wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

__all__ = ["Transcript", "fold"]

_LINE_END: Final = re.compile(r"\r\n|\n|\r")

Json = dict[str, Any]


@attrs.frozen
class Transcript:
    """What a stream amounts to. ``error`` is set when it said that it failed; then ``answer`` is what came before."""

    answer: Json | None
    error: Json | None


def fold(text: str) -> Transcript:
    """The answer that the events in ``text`` add up to. ``text`` may be cut off anywhere."""
    openai, anthropic = _OpenAi(), _Anthropic()
    answer: Json | None = None
    error: Json | None = None
    for name, data in _events(text):
        value = _object(data)
        if value is None:
            continue
        kind = value.get("type")
        kind = kind if isinstance(kind, str) else name
        if name == "error" or kind == "error" or value.get("error"):
            error = _error(value)
        elif kind.startswith(("message_", "content_block_")):
            anthropic.add(kind, value)
        elif kind.startswith("response."):
            answer = value["response"] if isinstance(value.get("response"), dict) else answer
        else:
            openai.add(value)
    return Transcript(answer or anthropic.answer() or openai.answer(), error)


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Names and data of the events; llama.cpp's older ``error: {…}`` lines count as events of that name."""
    name, data = "", ""
    for line in [*_LINE_END.split(text), ""]:
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield name, data
            name, data = "", ""
        elif field == "data":
            data += ("\n" if data else "") + value.removeprefix(" ")
        elif field == "event":
            name = value.strip()
        elif field == "error":
            yield "error", value


def _object(data: str) -> Json | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error(value: Json) -> Json:
    inner = value.get("error", value)
    if not isinstance(inner, dict):
        inner = {"message": inner}
    document: Json = {"status_code": inner.get("code", value.get("code"))}
    document["message"] = inner.get("message") or "unknown error"
    if inner.get("type"):
        document["type"] = inner["type"]
    details = {key: item for key, item in inner.items() if key not in ("code", "message", "type")}
    code = document["status_code"]
    if not isinstance(code, int) or not 400 <= code < 600:
        if code is not None:
            details["code"] = code
        del document["status_code"]
    return {**document, "details": details} if details else document


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _index(value: Json, default: int = 0) -> int:
    index = value.get("index")
    return index if isinstance(index, int) else default


# --- OpenAI: chat.completion.chunk and text_completion


@attrs.define
class _Call:
    fields: Json = attrs.field(factory=dict)
    name: str = ""
    arguments: list[str] = attrs.field(factory=list)

    def document(self) -> Json:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"type": "function", **self.fields, "function": function}


@attrs.define
class _Choice:
    role: str = "assistant"
    text: list[str] = attrs.field(factory=list)
    reasoning: list[str] = attrs.field(factory=list)
    refusal: list[str] = attrs.field(factory=list)
    calls: dict[int, _Call] = attrs.field(factory=dict)
    finish: Any = None

    def add(self, choice: Json) -> None:
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            self.text.append(_text(choice.get("text")))
            return
        self.role = _text(delta.get("role")) or self.role
        self.text.append(_text(delta.get("content")))
        self.reasoning.append(_text(delta.get("reasoning_content")) or _text(delta.get("reasoning")))
        self.refusal.append(_text(delta.get("refusal")))
        for fragment in _objects(delta.get("tool_calls")):
            self._call(fragment)

    def _call(self, fragment: Json) -> None:
        """Only the first fragment of a call has its ID and name; the index says which call the others belong to."""
        call = self.calls.setdefault(_index(fragment, max(self.calls, default=0)), _Call())
        call.fields.update({key: fragment[key] for key in ("id", "type") if isinstance(fragment.get(key), str)})
        function = fragment.get("function")
        if isinstance(function, dict):
            call.name = call.name or _text(function.get("name"))
            call.arguments.append(_text(function.get("arguments")))

    def chat(self, index: int) -> Json:
        content = "".join(self.text)
        message: Json = {"role": self.role, "content": content if content or not self.calls else None}
        for name, parts in (("reasoning_content", self.reasoning), ("refusal", self.refusal)):
            if any(parts):
                message[name] = "".join(parts)
        if self.calls:
            message["tool_calls"] = [call.document() for _, call in sorted(self.calls.items())]
        return {"index": index, "message": message, "finish_reason": self.finish}

    def completion(self, index: int) -> Json:
        return {"index": index, "text": "".join(self.text), "finish_reason": self.finish}


class _OpenAi:
    def __init__(self) -> None:
        self._top: Json = {}
        self._choices: dict[int, _Choice] = {}
        self._chat = False

    def add(self, chunk: Json) -> None:
        if "choices" not in chunk and not self._top:
            return
        # The last chunk's figures stand: usage, timings. What an earlier one had and it has not is kept.
        self._top.update({key: value for key, value in chunk.items() if key != "choices" and value is not None})
        for choice in _objects(chunk.get("choices")):
            self._chat = self._chat or "delta" in choice
            self._choices.setdefault(_index(choice), _Choice()).add(choice)

    def answer(self) -> Json | None:
        if not self._top and not self._choices:
            return None
        choices = sorted(self._choices.items())
        folded = [choice.chat(index) if self._chat else choice.completion(index) for index, choice in choices]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._top, "object": kind, "choices": folded}


# --- Anthropic: message_start … message_stop


class _Anthropic:
    def __init__(self) -> None:
        self._message: Json = {}
        self._blocks: dict[int, Json] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}

    def add(self, kind: str, event: Json) -> None:
        delta = event.get("delta")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._message = dict(event["message"])
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            self._blocks[_index(event)] = dict(event["content_block"])
        elif kind == "content_block_delta" and isinstance(delta, dict):
            for name in ("text", "thinking", "signature", "partial_json"):
                if _text(delta.get(name)):
                    self._pieces.setdefault((_index(event), name), []).append(delta[name])
        elif kind == "message_delta":
            if isinstance(delta, dict):
                self._message.update(delta)
            usage, before = event.get("usage"), self._message.get("usage")
            if isinstance(usage, dict):
                self._message["usage"] = {**(before if isinstance(before, dict) else {}), **usage}

    def answer(self) -> Json | None:
        if not self._message and not self._blocks and not self._pieces:
            return None
        blocks: dict[int, Json] = {index: dict(block) for index, block in self._blocks.items()}
        for (index, name), pieces in self._pieces.items():
            block, text = blocks.setdefault(index, {"type": "text"}), "".join(pieces)
            if name == "partial_json":
                block["input"] = text if (value := _object(text)) is None else value
            else:
                block[name] = _text(block.get(name)) + text
        return {**self._message, "content": [block for _, block in sorted(blocks.items())]}
