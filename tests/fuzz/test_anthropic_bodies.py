"""Mutated bodies on Anthropic's routes: nothing crashes, no 5xx, and every refusal has Anthropic's shape."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from dmr_core.domain.capability import Capabilities, Dialect, TokenCounter
from dmr_core.ports.transport import UpstreamRequest
from dmr_core.testing.fakes.transport import Answer as EngineAnswer
from tests.anthropic_stream import events_of, folded
from tests.fuzz.bodies import mutants
from tests.integration.test_in_process import World, make_world

PNG = base64.b64encode(b"\x89PNG\r\n").decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}, PICTURE]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}, PICTURE]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "title": "T"},
        ],
    },
]
SAMPLES: tuple[dict[str, Any], ...] = (
    {"model": "one", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
    {"model": "one", "max_tokens": 5, "messages": TURNS, "stream": True, "system": "Be kind."},
    {
        "model": "one",
        "max_tokens": 5,
        "messages": TURNS,
        "system": [{"type": "text", "text": "Be kind."}],
        "tools": [
            {"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 4,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
        "metadata": {"user_id": "me"},
        "keep_alive": "10m",
        "seed": 1,
    },
)
ROUTES = (("/anthropic/v1/messages", 6), ("/v1/messages", 2), ("/engines/fake/v1/messages/count_tokens", 2))
SHARES = sum(share for _, share in ROUTES)
JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)
CHAT = {"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}], "usage": {}}
MESSAGE = {"type": "message", "content": [], "usage": {}}


def reply(request: UpstreamRequest) -> EngineAnswer | None:
    """An engine that takes anything that is JSON."""
    if request.method != "POST":
        return None
    try:
        asked = json.loads(request.body)
    except ValueError:  # dmr does not look into strings that it passes on
        return EngineAnswer(400, JSON, b'{"error":{"message":"not JSON"}}')
    if request.path == "/tokenize":
        return EngineAnswer(200, JSON, b'{"tokens":[1,2]}')
    if request.path == "/apply-template":
        return EngineAnswer(200, JSON, b'{"prompt":"x"}')
    if request.path == "/v1/chat/completions":
        return EngineAnswer(200, SSE, _stream()) if asked.get("stream") else EngineAnswer(200, JSON, _json(CHAT))
    return EngineAnswer(200, JSON, _json(MESSAGE if request.path == "/v1/messages" else {"input_tokens": 2}))


async def _stream() -> AsyncGenerator[bytes, None]:
    yield b'data: {"choices":[{"index":0,"delta":{"content":"ok"}}]}\n\n'
    yield b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


async def send(world: World, path: str, body: bytes) -> bool:
    """Send a body, and hold the answer to the rules; whether it was accepted."""
    answer = await world.call("POST", path, body)
    if answer.status == 200:
        if answer.headers["content-type"].startswith("text/event-stream"):
            folded(events_of(answer.body))
        else:
            assert "input_tokens" in answer.json() or answer.json()["type"] == "message"
        return True
    assert answer.status in (400, 404, 413), answer.text
    assert answer.headers["content-type"] == "application/json"
    value = answer.json()
    assert (value["type"], set(value)) == ("error", {"type", "error"})
    error = value["error"]
    assert {"type", "message"} <= error.keys() <= {"type", "message", "code", "param"}
    assert 0 < len(error["message"]) < 2000
    assert error["type"] in ("invalid_request_error", "not_found_error", "request_too_large")
    return False


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])], ids=str
)
@pytest.mark.parametrize("native", [False, True], ids=["translated", "native"])
async def test_no_body_gets_a_server_error_or_another_shape(
    count: int, native: bool, caplog: pytest.LogCaptureFixture
) -> None:
    dialects = frozenset(Dialect) if native else frozenset({Dialect.OPENAI})
    fields = {"/v1/messages": frozenset(SAMPLES[2])}
    capabilities = Capabilities(fields=fields, counter=TokenCounter.TEMPLATE)
    async with make_world(spec={"dialects": dialects, "capabilities": lambda: capabilities}) as world:
        await world.pull("one")
        world.engine.reply = reply
        accepted = 0
        for path, share in ROUTES:
            for number, body in mutants(SAMPLES, count * share // SHARES):
                try:
                    accepted += await send(world, path, body)
                except AssertionError as exc:
                    pytest.fail(f"{path}, number {number}: {exc}\n{body[:2000]!r}")
        assert accepted > count // 20, "most mutants did not get anywhere"
        assert "unexpected error" not in caplog.text
