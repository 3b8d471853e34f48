"""The table of what llama.cpp honours is true: every field is put to the real server.

A field is honoured when the server refuses what cannot be its value, or answers otherwise because of it. One that it
ignores changes nothing, whatever its value.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
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
# Honoured, but in no way that an answer shows: the slot, and usage, which a streamed completion has in any case.
UNSEEN = {(CHAT, "id_slot"), (COMPLETIONS, "id_slot"), (COMPLETIONS, "stream_options")}
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
        "tool_choice": {"type": "any"},
        "thinking": {"type": "disabled"},
        "foo": 1,
    },
    EMBEDDINGS: {"dimensions": 4, "truncate": True, "input_type": "query", "foo": 1},
    RERANK: {"return_documents": True, "truncate": True, "max_tokens_per_doc": 1, "foo": 1},
}


@attrs.frozen
class Engines:
    """The engines themselves, by model and path: dmr refuses by itself what no engine can mean."""

    sockets: dict[tuple[str, str], Path]

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of an answer."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(30)
            connection.connect(str(self.sockets[body["model"], path]))
            client = http.client.HTTPConnection("localhost")
            client.sock = connection
            client.request("POST", path, json.dumps(body))
            answer = client.getresponse()
            return answer.status, answer.read()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    root = tmp_path_factory.mktemp("capabilities")
    daemon = Daemon(root, daemon_environment(root) | {"DMR_MAX_RUNNERS": "4"})
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        (root / "tools.jinja").write_text(TEMPLATE)
        daemon.cli("package", "--from", MODEL, "--chat-template", str(root / "tools.jinja"), TOOLED)
        yield Engines(_loaded(daemon))
    finally:
        daemon.stop()


def _loaded(daemon: Daemon) -> dict[tuple[str, str], Path]:
    """Load every model in every mode, and see which socket each brings."""
    found: dict[tuple[str, str], Path] = {}
    for model, paths in (
        (MODEL, (CHAT, COMPLETIONS, MESSAGES)),
        (TOOLED, (CHAT, MESSAGES)),
        (MODEL, (EMBEDDINGS,)),
        (MODEL, (RERANK,)),
    ):
        before = set((daemon.root / "run").rglob("*.sock"))
        body = json.dumps({**BASE[paths[0]], "model": model}).encode()
        with urllib.request.urlopen(urllib.request.Request(daemon.url + paths[0], body), timeout=30) as answer:
            assert answer.status == 200
        (engine,) = set((daemon.root / "run").rglob("*.sock")) - before
        found.update(dict.fromkeys(((model, path) for path in paths), engine))
    return found


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


def effective(engines: Engines, path: str, field: str) -> str:
    """How the field shows; ``""`` where it does not."""
    if (path, field) not in SHOWN:
        for value in WRONG:
            status, content = engines.ask(path, {**BASE[path], field: value})
            if status != 200:
                return content.decode()
    more, value = SHOWN.get((path, field), ({}, None))
    return differs(engines, path, more, field, value)


def differs(engines: Engines, path: str, more: dict[str, Any], field: str, value: Any) -> str:
    body = {**BASE[path], **more}
    status, with_it = engines.ask(path, {**body, field: value})
    if status != 200:
        return with_it.decode()
    _, without = engines.ask(path, body)
    return with_it.decode() if said(with_it) != said(without) else ""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, EMBEDDINGS, RERANK])
def test_every_field_of_the_table_is_honoured(served: Engines, path: str) -> None:
    fields = CAPABILITIES.fields[path] - {"model"}  # which dmr itself honours
    assert fields - {field for field in fields if effective(served, path, field)} == {f for p, f in UNSEEN if p == path}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, EMBEDDINGS, RERANK])
def test_fields_that_are_not_in_the_table_change_nothing_and_are_named(served: Engines, path: str) -> None:
    wrong = {
        field: shown for field, value in FOREIGN[path].items() if (shown := differs(served, path, {}, field, value))
    }
    assert {} == wrong
    assert not CAPABILITIES.fields[path] & FOREIGN[path].keys()


def test_a_tool_by_its_name_is_no_choice_to_the_engine(served: Engines) -> None:
    """What the table says of values."""
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    chosen = {"type": "function", "function": {"name": "other"}}
    body = {**BASE[CHAT], **TOOLS, "max_tokens": 100, "tools": [TOOL, other], "tool_choice": chosen}
    _, content = served.ask(CHAT, body)
    assert "get_weather" == json.loads(content)["choices"][0]["message"]["tool_calls"][0]["function"]["name"]


def test_every_path_of_the_table_is_looked_at() -> None:
    assert {*BASE, "/infill"} == set(CAPABILITIES.fields)  # no route of dmr leads there but Ollama's; see its tests
