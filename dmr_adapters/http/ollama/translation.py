"""Ollama's requests for text as an engine's. Pure.

A chat, and a prompt that is to be put into the model's own template, become chat completions; a prompt that is ready
(``raw``, a ``template`` of the request, a ``context``) becomes a completion, and one with a ``suffix`` a completion of
its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from dmr_adapters.http.fidelity import Fidelity
from dmr_adapters.http.ollama.messages import content_of, translate_messages
from dmr_adapters.http.ollama.options import translate_options
from dmr_adapters.http.ollama.request import AnswerBody, ChatBody, GenerateBody
from dmr_core.errors import InvalidRequestError

__all__ = ["CHAT", "COMPLETIONS", "INFILL", "Upstream", "chat_request", "completion_request", "prompt_messages"]

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
INFILL: Final = "/infill"
_LEVELS: Final = ("low", "medium", "high", "max")
_NOTHING: Final = (b"", b"null", b'""')

Takes = Callable[[str], bool]
"""Whether the engine honours a field."""


@attrs.define(eq=False)
class Upstream:
    """What goes to the engine, and what became of what was asked for."""

    fields: dict[str, Any]
    fidelity: Fidelity = attrs.field(factory=Fidelity)

    @property
    def body(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self.fields)


def chat_request(
    body: ChatBody,
    name: str,
    options: Mapping[str, Any],
    takes: Takes,
    messages: Sequence[dict[str, Any]] | None = None,
) -> Upstream:
    """A chat as a chat completion. ``messages`` are used instead of the body's, if they are given.

    Raises:
        InvalidRequestError: something cannot be meant; says what.
    """
    made = Upstream(
        {"model": name, "messages": messages if messages is not None else translate_messages(body.messages or ())}
    )
    _common(made, body, options, takes)
    if body.tools:
        made.fields["tools"] = [
            {"type": tool.type or "function", "function": {"description": "", **tool.function}} for tool in body.tools
        ]
    _think(made, body, takes)
    _format(made, body.format, chat=True, takes=takes)
    if body.logprobs or body.top_logprobs:
        made.fields["logprobs"] = True
        if body.top_logprobs:
            made.fields["top_logprobs"] = body.top_logprobs
    return made


def prompt_messages(body: GenerateBody, system: str | None) -> list[dict[str, Any]]:
    """A prompt as a chat."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": content_of(body.prompt or "", body.images)}]


def completion_request(
    body: GenerateBody, name: str, options: Mapping[str, Any], takes: Takes, prompt: str | list[int]
) -> Upstream:
    """A prompt that is ready as a completion, with a ``suffix`` as one of the middle.

    Raises:
        InvalidRequestError: something cannot be meant; says what.
    """
    suffix = body.suffix or ""
    made = Upstream(
        {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""} if suffix else {"model": name, "prompt": prompt}
    )
    _common(made, body, options, takes)
    _format(made, body.format, chat=False, takes=takes)
    if body.think:
        made.fidelity.ignored.append("think")  # where thoughts end is for the template to say
    if body.images:
        made.fidelity.ignored.append("images")
    if body.logprobs or body.top_logprobs:
        made.fields["n_probs" if suffix else "logprobs"] = body.top_logprobs or 1
    return made


def _common(made: Upstream, body: AnswerBody, options: Mapping[str, Any], takes: Takes) -> None:
    translated = translate_options(options, takes)
    made.fields.update(translated.fields)
    made.fidelity.ignored += translated.ignored
    if body.stream is not False:
        made.fields["stream"] = True
        if "input_prefix" not in made.fields:
            made.fields["stream_options"] = {"include_usage": True}
    for field in ("truncate", "shift"):
        # Prompts are never cut behind anybody's back: who asks for that is told.
        if getattr(body, field):
            made.fidelity.ignored.append(field)


def _think(made: Upstream, body: AnswerBody, takes: Takes) -> None:
    think = body.think
    if think is None or think == "":
        return
    if isinstance(think, str) and think not in _LEVELS:
        levels = ", ".join(map(repr, _LEVELS))
        raise InvalidRequestError(
            f"invalid think value {think[:40]!r}: use true, false, or one of {levels}", param="think"
        )
    if not takes("chat_template_kwargs"):
        made.fidelity.ignored.append("think")
        return
    arguments: dict[str, Any] = {"enable_thinking": think is not False}
    if isinstance(think, str):
        arguments["reasoning_effort"] = think
    made.fields["chat_template_kwargs"] = arguments


def _format(made: Upstream, raw: msgspec.Raw, *, chat: bool, takes: Takes) -> None:
    content = bytes(raw).strip()
    if content in _NOTHING:
        return
    if content != b'"json"' and not content.startswith(b"{"):
        raise InvalidRequestError(
            f'invalid format {content[:40].decode("utf-8", "replace")}: use "json" or a JSON schema', param="format"
        )
    schema: Any = {"type": "object"} if content == b'"json"' else raw
    wrapped = {"type": "json_schema", "json_schema": {"name": "format", "schema": schema, "strict": True}}
    if chat:
        field, value = "response_format", wrapped if schema is raw else {"type": "json_object"}
    elif takes("json_schema"):
        field, value = "json_schema", schema
    else:
        field, value = "response_format", wrapped
    if takes(field):
        made.fields[field] = value
    else:
        made.fidelity.ignored.append("format")
