"""The table of what llama.cpp honours is true: every field is put to the real server.

A field is honoured when the server refuses what cannot be its value, or answers otherwise because of it. One that it
ignores changes nothing, whatever its value.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmr_backends_llamacpp.capabilities import CAPABILITIES
from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_anthropic_sdk import TEMPLATE

MODEL, TOOLED = "dmr/demo", "e2e/tooled"
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
EMBEDDINGS, RERANK = "/v1/embeddings", "/rerank"
HELLO = [{"role": "user", "content": "Hello!"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
TOOLS: dict[str, Any] = {"model": TOOLED, "tools": [TOOL], "max_tokens": 60}
CLAUDE = {"model": TOOLED, "tools": [{"name": "get_weather", "input_schema": SCHEMA}], "max_tokens": 60}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "max_tokens": 4, "temperature": 0, "messages": HELLO},
    COMPLETIONS: {"model": MODEL, "max_tokens": 4, "temperature": 0, "prompt": "Hello"},
    MESSAGES: {"model": MODEL, "max_tokens": 4, "temperature": 0, "messages": HELLO},
    EMBEDDINGS: {"model": MODEL, "input": "hi"},
    RERANK: {"model": MODEL, "query": "a", "documents": ["b", "c"]},
}
WRONG: tuple[Any, ...] = ({"x": []}, "zz", -7.5, [[{}]], True)
# What shows an effect where no value is refused: the rest of the request, and a value.
SHOWN: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {
    (CHAT, "response_format"): ({}, {"type": "json_object"}),
    (CHAT, "json_schema"): ({}, {"type": "integer"}),
    (CHAT, "logit_bias"): ({}, [["Hello", False]]),
    (CHAT, "stream_options"): ({"stream": True}, {"include_usage": True}),
    (CHAT, "chat_template_kwargs"): ({}, {"enable_thinking": "zz"}),
    (CHAT, "add_generation_prompt"): ({}, False),
    (CHAT, "parallel_tool_calls"): ({**TOOLS, "tool_choice": "required", "max_tokens": 400}, False),
    (CHAT, "tool_choice"): (TOOLS, "none"),
    (CHAT, "verbose"): ({}, True),
    (CHAT, "return_tokens"): ({}, "x"),
    (COMPLETIONS, "json_schema"): ({}, {"type": "integer"}),
    (COMPLETIONS, "logit_bias"): ({}, [[",", False]]),
    (COMPLETIONS, "verbose"): ({}, True),
    (RERANK, "texts"): ({}, ["b"]),
    (RERANK, "top_n"): ({}, 1),
    (RERANK, "return_text"): ({"texts": ["b", "c"]}, True),
    (MESSAGES, "system"): ({}, "You are kind."),
    (MESSAGES, "tools"): ({"model": TOOLED}, CLAUDE["tools"]),
    (MESSAGES, "chat_template_kwargs"): ({}, {"enable_thinking": "zz"}),
}
# Honoured, but in no way that an answer of this model shows: the slot, whether this model, which does not think, is to,
# and usage, which a streamed completion has in any case.
UNSEEN = {(CHAT, "id_slot"), (COMPLETIONS, "id_slot"), (COMPLETIONS, "stream_options"), (MESSAGES, "thinking")}
# Fields of others that clients send, and what they would say.
FOREIGN: dict[str, dict[str, Any]] = {
    CHAT: {
        "functions": [TOOL["function"]],
        "function_call": "none",
        "store": True,
        "modalities": ["audio"],
        "prediction": {"type": "content", "content": "x"},
        "web_search_options": {},
        "verbosity": "low",
        "reasoning_effort": "high",
        "stop_token_ids": [1],
        "min_tokens": 50,
        "repetition_penalty": 9.0,
        "length_penalty": 2.0,
        "guided_json": SCHEMA,
        "structured_outputs": {"json": SCHEMA},
        "skip_special_tokens": False,
        "think": True,
        "options": {"num_predict": 1},
        "num_ctx": 8,
        "best_of": 3,
        "suffix": "x",
        "system": "Be brief.",
        "stop_sequences": ["o"],
        "foo": 1,
    },
    COMPLETIONS: {"suffix": "x", "best_of": 3, "echo": True, "response_format": {"type": "json_object"}, "foo": 1},
    MESSAGES: {
        "min_p": 0.99,
        "seed": 7,
        "logprobs": True,
        "stop": ["o"],
        "n_predict": 1,
        "grammar": 'root ::= "zz"',
        "json_schema": {"type": "integer"},
        "response_format": {"type": "json_object"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "repeat_penalty": 9.0,
        "foo": 1,
    },
    EMBEDDINGS: {"dimensions": 4, "truncate": True, "input_type": "query", "foo": 1},
    RERANK: {"return_documents": True, "truncate": True, "max_tokens_per_doc": 1, "foo": 1},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("capabilities")
    daemon = Daemon(root, daemon_environment(root))
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        template: Path = root / "tools.jinja"
        template.write_text(TEMPLATE)
        daemon.cli("package", "--from", MODEL, "--chat-template", str(template), TOOLED)
        yield daemon
    finally:
        daemon.stop()


def ask(daemon: Daemon, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    # The engine answers messages itself only where no field asks for more than its own dialect has.
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def said(content: bytes) -> Any:
    """What of an answer depends on its request alone."""
    if content.startswith((b"data:", b"event:")):
        return content.count(b"\n\n"), b"usage" in content
    value = json.loads(content)
    if isinstance(value, list) or "results" in value:
        return value
    if "choices" in value:
        choices = [
            {**choice, "message": {**choice["message"], "tool_calls": _calls(choice)}}
            if "message" in choice
            else choice
            for choice in value["choices"]
        ]
        return choices, value["usage"]["prompt_tokens"], sorted(value)
    usage = value.get("usage", {})
    return (
        value.get("content"),
        value.get("data"),
        sum(usage.get(k, 0) for k in ("input_tokens", "cache_read_input_tokens")),
    )


def _calls(choice: dict[str, Any]) -> list[Any]:
    return [call["function"] for call in choice["message"].get("tool_calls") or ()]


def effective(daemon: Daemon, path: str, field: str) -> str:
    """How the field shows; ``""`` where it does not."""
    if (path, field) not in SHOWN:
        for value in WRONG:
            status, content = ask(daemon, path, {**BASE[path], field: value})
            if status != 200:
                return content.decode()
    more, value = SHOWN.get((path, field), ({}, None))
    return differs(daemon, path, more, field, value)


def differs(daemon: Daemon, path: str, more: dict[str, Any], field: str, value: Any) -> str:
    body = {**BASE[path], **more}
    status, with_it = ask(daemon, path, {**body, field: value})
    if status != 200:
        return with_it.decode()
    _, without = ask(daemon, path, body)
    return with_it.decode() if said(with_it) != said(without) else ""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, EMBEDDINGS, RERANK])
def test_every_field_of_the_table_is_honoured(served: Daemon, path: str) -> None:
    fields = CAPABILITIES.fields[path]
    assert fields - {field for field in fields if effective(served, path, field)} == {f for p, f in UNSEEN if p == path}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, RERANK])
def test_fields_that_are_not_in_the_table_change_nothing_and_are_named(served: Daemon, path: str) -> None:
    wrong = {
        field: shown for field, value in FOREIGN[path].items() if (shown := differs(served, path, {}, field, value))
    }
    assert {} == wrong
    assert not CAPABILITIES.fields[path] & FOREIGN[path].keys()


def test_fields_messages_do_not_honour_change_nothing(served: Daemon) -> None:
    """But for those that dmr has a translation for."""
    foreign = {field: value for field, value in FOREIGN[MESSAGES].items() if field != "output_config"}
    assert {} == {f: shown for f, value in foreign.items() if (shown := differs(served, MESSAGES, {}, f, value))}
    assert not CAPABILITIES.fields[MESSAGES] & FOREIGN[MESSAGES].keys()


def test_a_tool_by_its_name_is_no_choice_to_the_engine(served: Daemon) -> None:
    """What the table says of values."""
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    chosen = {"type": "function", "function": {"name": "other"}}
    body = {**BASE[CHAT], **TOOLS, "max_tokens": 100, "tools": [TOOL, other], "tool_choice": chosen}
    _, content = ask(served, CHAT, body)
    assert "get_weather" == json.loads(content)["choices"][0]["message"]["tool_calls"][0]["function"]["name"]


def test_every_path_of_the_table_is_looked_at() -> None:
    assert set(BASE) == set(CAPABILITIES.fields)
