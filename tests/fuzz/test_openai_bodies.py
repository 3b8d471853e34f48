"""Mutated bodies on OpenAI's routes: nothing crashes, no 5xx, and every refusal has OpenAI's shape."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asgi_client import Answer
from tests.event_rules import check_events, parse_events
from tests.fuzz.bodies import mutants
from tests.integration.test_responses_in_process import TOOL, World, make_world

TEXT = {
    "format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True},
    "verbosity": "low",
}
ITEMS = [
    {"role": "developer", "content": "Be kind."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": []},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Rain.", "annotations": []}]},
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    },
]
RESPONSES: tuple[dict[str, Any], ...] = (
    {"model": "one", "input": "Hi"},
    {"model": "one", "input": ITEMS, "stream": True, "truncation": "auto"},
    {
        "model": "one",
        "input": ITEMS[:2],
        "instructions": "Be brief.",
        "tools": [TOOL, {"type": "function", "function": {"name": "time"}}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_logprobs": 2,
        "max_output_tokens": 7,
        "text": TEXT,
        "reasoning": {"effort": "low", "summary": "auto"},
        "metadata": {"a": "b"},
        "include": ["message.output_text.logprobs"],
        "user": "me",
        "store": True,
        "keep_alive": "10m",
        "previous_response_id": "resp_x",
        "background": False,
        "stream_options": {"include_obfuscation": False},
    },
)
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
CHAT: tuple[dict[str, Any], ...] = (
    {"model": "one", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    {"model": "one", "messages": MESSAGES, "keep_alive": 5, "tools": [{"type": "function"}], "temperature": 1},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"model": "one", "input": ["a", "b"], "encoding_format": "float"},
    {"model": "one", "prompt": "a", "max_tokens": 4, "stream": False},
    {"model": "one", "query": "a", "documents": ["a", "b"], "top_n": 1},
)
ROUTES = (
    ("/v1/responses", RESPONSES, 6),
    ("/v1/chat/completions", CHAT, 2),
    ("/engines/fake/v1/embeddings", OTHERS, 1),
    ("/engines/v1/completions", OTHERS, 1),
)
SHARES = sum(share for _, _, share in ROUTES)


async def send(world: World, path: str, body: bytes) -> None:
    """Send a body, and hold the answer to the rules."""
    answer: Answer = await world.call("POST", path, body)
    if answer.status != 200:
        assert answer.status in (400, 404, 408, 413, 422), answer.text
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "code", "param"}
        assert isinstance(error["message"], str)
        assert len(error["message"]) < 2000
        assert error["type"]
    elif path == "/v1/responses":
        if answer.headers["content-type"].startswith("text/event-stream"):
            check_events(parse_events(answer.body))
        else:
            assert answer.json()["object"] == "response"


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])], ids=str
)
async def test_no_body_gets_a_server_error_or_another_shape(count: int, caplog: pytest.LogCaptureFixture) -> None:
    async with make_world() as world:
        world.engine.tolerant = True
        accepted = 0
        for path, samples, share in ROUTES:
            for number, body in mutants(samples, count * share // SHARES):
                before = len(world.engine.asked)
                try:
                    await send(world, path, body)
                except AssertionError as exc:
                    pytest.fail(f"{path}, number {number}: {exc}\n{body[:2000]!r}")
                accepted += len(world.engine.asked) > before
        assert accepted > count // 10, "most mutants did not get anywhere"
        assert "unexpected error" not in caplog.text
