"""Mutated bodies on Ollama's routes: nothing crashes, no 5xx, and every refusal has Ollama's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.asgi_client import Answer
from tests.fuzz.bodies import mutants
from tests.integration.test_ollama_in_process import CALL, World, make_world

OPTIONS = {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "seed": 1, "num_ctx": 64, "num_gpu": 1, "mirostat": 1}
DIGEST = "sha256:" + "0" * 64
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What?", "images": ["iVBORw0KGgo=", "data:image/gif;base64,R0lG"]},
    {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "c1"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}]
CHAT: tuple[dict[str, Any], ...] = (
    {"model": "one", "messages": MESSAGES[:2]},
    {
        "model": "one",
        "messages": MESSAGES,
        "tools": TOOLS,
        "stream": False,
        "format": {"type": "object", "properties": {"a": {"type": "string"}}},
        "think": "low",
        "keep_alive": "5m",
        "options": OPTIONS,
        "logprobs": True,
        "top_logprobs": 2,
        "truncate": True,
        "shift": False,
    },
    {"model": "one", "messages": [], "keep_alive": 0},
)
TEMPLATE = (
    '{{- if .System }}S {{ .System }}{{ end }}{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $m.Content }}'
    "{{ else if not (len $m.Content) }}-{{ end }}{{ end }}{{ .Prompt }}{{ .Response }}"
)
GENERATE: tuple[dict[str, Any], ...] = (
    {"model": "one", "prompt": "Hi", "system": "S", "context": [1, 2], "images": ["iVBORw0KGgo="], "options": OPTIONS},
    {"model": "one", "prompt": "Hi", "template": TEMPLATE, "stream": False, "think": True, "format": "json"},
    {"model": "one", "prompt": "Hi", "suffix": "x", "raw": False, "keep_alive": -1, "logprobs": True},
    {"model": "one", "prompt": "Hi", "raw": True},
)
EMBED: tuple[dict[str, Any], ...] = (
    {"model": "one", "input": ["a", "b"], "truncate": True, "dimensions": 2, "options": OPTIONS, "keep_alive": 5},
    {"model": "one", "input": "a", "prompt": "b"},
)
MODELS: tuple[dict[str, Any], ...] = (
    {
        "model": "one",
        "name": "one",
        "verbose": True,
        "insecure": True,
        "stream": False,
        "source": "one",
        "destination": "x",
    },
)
CREATE: tuple[dict[str, Any], ...] = (
    {"model": "x", "from": "one", "system": "S", "template": TEMPLATE, "license": ["MIT"], "parameters": OPTIONS},
    {"model": "x", "files": {"a.gguf": DIGEST}, "adapters": {"b.gguf": DIGEST}, "messages": MESSAGES, "quantize": "q4"},
    {"model": "x", "from": "one", "template": "{% for m in messages %}{{ m.content }}{% endfor %}", "license": "MIT"},
)
ROUTES = (
    ("POST", "/api/chat", CHAT, 6),
    ("POST", "/api/generate", GENERATE, 6),
    ("POST", "/api/embed", EMBED, 2),
    ("POST", "/api/embeddings", EMBED, 1),
    ("POST", "/api/show", MODELS, 1),
    ("POST", "/api/copy", MODELS, 1),
    ("POST", "/api/pull", MODELS, 1),
    ("POST", "/api/create", CREATE, 2),
)
SHARES = sum(share for *_, share in ROUTES)


def check(answer: Answer) -> None:
    """Hold an answer to the rules."""
    if answer.status != 200:
        assert answer.status in (400, 404, 408, 409, 413, 422), answer.text
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()
        assert list(error) == ["error"]
        assert isinstance(error["error"], str)
        assert 0 < len(error["error"]) < 2500
        return
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    assert all("error" not in line or len(line) == 1 for line in lines)
    if any("done" in line for line in lines):
        assert [line.get("done") for line in lines] == [False] * (len(lines) - 1) + [True]


async def send(world: World, method: str, path: str, body: bytes) -> Answer:
    answer = await world.call(method, path, body)
    check(answer)
    return answer


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])], ids=str
)
async def test_no_body_gets_a_server_error_or_another_shape(count: int, caplog: pytest.LogCaptureFixture) -> None:
    async with make_world() as world:
        accepted = 0
        for method, path, samples, share in ROUTES:
            for number, body in mutants(samples, count * share // SHARES):
                try:
                    accepted += (await send(world, method, path, body)).status == 200
                except (AssertionError, ValueError) as exc:
                    pytest.fail(f"{path}, number {number}: {exc}\n{body[:2000]!r}")
        assert accepted > count // 10, "most mutants did not get anywhere"
        assert "unexpected error" not in caplog.text
