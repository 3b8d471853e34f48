"""The official ``anthropic`` client, unmodified, on the real llama.cpp: in its own dialect, and translated for it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import attrs
import pytest
from anthropic.types import ToolParam, ToolUseBlock

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS

MODEL = "dmr/demo"
TOOLED, THINKING = "e2e/tooled", "e2e/thinking"
GREEDY = {"temperature": 0}  # a field that newer versions of the client have no parameter for
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
OTHER: ToolParam = {"name": "roll_dice", "input_schema": {"type": "object", "properties": {}}}
# A template that knows tools. A call begins with the very words the demo model answers a greeting with, so that it calls.
TEMPLATE = """{%- if tools %}<|im_start|>system
You may call tools. <tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}{% for call in message.tool_calls or [] %}Hello!{"name": "{{ call.function.name }}", \
"arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@attrs.frozen
class Served:
    """A service, and a client of it."""

    daemon: Daemon
    client: anthropic.Anthropic


@pytest.fixture(scope="module", params=["native", "translated"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("anthropic")
    environment = daemon_environment(root)
    if request.param == "translated":
        environment["DMR_TRANSLATE"] = "anthropic"
    daemon = Daemon(root, environment)
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        _package_tooled(daemon, root)
        with anthropic.Anthropic(base_url=daemon.url + "/anthropic", api_key="unused", max_retries=0) as client:
            yield Served(daemon, client)
    finally:
        daemon.stop()


def _package_tooled(daemon: Daemon, root: Path) -> None:
    (root / "tools.jinja").write_text(TEMPLATE)
    (root / "thinks.jinja").write_text(TEMPLATE + "{% if enable_thinking is false %}Do not think.{% endif %}")
    daemon.cli("package", "--from", MODEL, "--chat-template", str(root / "tools.jinja"), TOOLED)
    daemon.cli("package", "--from", MODEL, "--chat-template", str(root / "thinks.jinja"), THINKING)


def test_a_message(served: Served) -> None:
    question = QUESTIONS[0]
    answer = served.client.messages.create(
        model=MODEL, max_tokens=64, extra_body=GREEDY, messages=[{"role": "user", "content": question["question"]}]
    )
    (block,) = answer.content
    assert ("text", question["answer"]) == (block.type, getattr(block, "text", None))
    assert (MODEL, "end_turn", "assistant") == (answer.model, answer.stop_reason, answer.role)
    assert answer.usage.output_tokens > 0


def test_a_stream(served: Served) -> None:
    question = QUESTIONS[8]
    with served.client.messages.stream(
        model=MODEL, max_tokens=64, extra_body=GREEDY, messages=[{"role": "user", "content": question["question"]}]
    ) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()

    assert question["answer"] == "".join(pieces)
    assert len(pieces) > 5
    assert (MODEL, "end_turn") == (answer.model, answer.stop_reason)
    assert answer.usage.output_tokens > 0


def _post(served: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(served.daemon.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=30) as answer:
        made: dict[str, Any] = json.load(answer)
        return made


def test_both_dialects_give_one_answer(served: Served) -> None:
    """System prompt, turns and bounds reach the engine alike, whoever puts them into its template."""
    body = {
        "model": MODEL,
        "max_tokens": 5,
        "temperature": 0,
        "top_k": 1,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTIONS[0]["question"]}]},
            {"role": "assistant", "content": QUESTIONS[0]["answer"]},
            {"role": "user", "content": QUESTIONS[1]["question"]},
        ],
    }
    chat = {**body, "messages": [{"role": "system", "content": "Be brief."}, *body["messages"]]}  # type: ignore[misc]
    del chat["system"]
    ours = _post(served, "/v1/messages", body)
    theirs = _post(served, "/v1/chat/completions", chat)
    assert theirs["choices"][0]["message"]["content"] == ours["content"][0]["text"]
    usage = ours["usage"]
    assert theirs["usage"]["prompt_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert "max_tokens" == ours["stop_reason"]


def test_a_stop_sequence_ends_it(served: Served) -> None:
    text = QUESTIONS[0]["answer"]
    answer = served.client.messages.create(
        model=MODEL,
        max_tokens=64,
        extra_body=GREEDY,
        stop_sequences=[text[6:9]],
        messages=[{"role": "user", "content": QUESTIONS[0]["question"]}],
    )
    assert text[: text.index(text[6:9])] == getattr(answer.content[0], "text", None)


def test_tokens_are_counted_as_the_engine_counts_them(served: Served) -> None:
    count = served.client.messages.count_tokens(
        model=TOOLED,
        system="You are kind.",
        tools=[WEATHER],
        messages=[{"role": "user", "content": "Hello ä 你好!"}],
    )
    answer = served.client.messages.create(
        model=TOOLED,
        max_tokens=1,
        system="You are kind.",
        tools=[WEATHER],
        messages=[{"role": "user", "content": "Hello ä 你好!"}],
    )
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == count.input_tokens
    assert count.input_tokens > 100


def _calls(answer: anthropic.types.Message) -> list[ToolUseBlock]:
    return [block for block in answer.content if isinstance(block, ToolUseBlock)]


def test_a_tool_is_called_and_its_result_read(served: Served) -> None:
    asked: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello!"}]
    answer = served.client.messages.create(
        model=TOOLED,
        max_tokens=200,
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        messages=asked,
        extra_body=GREEDY,
    )
    (call,) = _calls(answer)
    assert ("get_weather", "tool_use") == (call.name, answer.stop_reason)
    assert isinstance(call.input, dict)
    assert call.input["city"] in ("Oslo", "Rome")

    asked.append(
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]}
    )
    asked.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny"}]})
    after = served.client.messages.create(model=TOOLED, max_tokens=8, tools=[WEATHER], messages=asked)
    assert after.usage.output_tokens > 0


def test_a_streamed_call_adds_up_to_the_same(served: Served) -> None:
    with served.client.messages.stream(
        model=TOOLED,
        max_tokens=200,
        tools=[OTHER, WEATHER],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        messages=[{"role": "user", "content": "Hello!"}],
        extra_body=GREEDY,
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    (call,) = _calls(answer)
    assert ("get_weather", "tool_use") == (call.name, answer.stop_reason)
    assert json.dumps(call.input) in ('{"city": "Oslo"}', '{"city": "Rome"}')
    assert "content_block_start" in kinds


def test_whether_to_think_reaches_the_template(served: Served) -> None:
    """The count tells: this template says more to a model that is not to think."""
    messages = [{"role": "user", "content": "Hello!"}]

    def tokens(**asked: object) -> int:
        made = _post(served, "/v1/messages", {"model": THINKING, "max_tokens": 1, "messages": messages, **asked})[
            "usage"
        ]
        return int(made["input_tokens"] + made["cache_read_input_tokens"])

    assert tokens() == tokens(thinking={"type": "enabled", "budget_tokens": 1024})
    assert tokens() < tokens(thinking={"type": "disabled"})


def test_structured_output_follows_its_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"enum": ["a", "b"]}},
        "required": ["x"],
        "additionalProperties": False,
    }
    answer = served.client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": "Hello!"}],
        extra_body={"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        extra_headers={"DMR-Strict": "1"},
    )
    assert json.loads(getattr(answer.content[0], "text", "")) in ({"x": "a"}, {"x": "b"})


def test_ignored_fields_are_named(served: Served) -> None:
    raw = served.client.messages.with_raw_response.create(
        model=MODEL,
        max_tokens=1,
        messages=[{"role": "user", "content": "Hello!"}],
        extra_body={"frobnicate": 1, "metadata": {"user_id": "u"}},
    )
    assert "frobnicate" == raw.headers["dmr-ignored"]


def test_errors_are_the_clients_own_kinds(served: Served) -> None:
    create = served.client.messages.create
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(model="nope", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert "Model not found: nope" in missing.value.message
    with pytest.raises(anthropic.BadRequestError) as long:
        create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": "x " * 20_000}])
    assert "exceeds the available context size" in long.value.message
    with pytest.raises(anthropic.BadRequestError) as wrong:
        create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": "x"}], extra_body={"temperature": "x"})
    assert "temperature" in wrong.value.message
    with pytest.raises(anthropic.BadRequestError) as strict:
        create(
            model=MODEL,
            max_tokens=1,
            messages=[{"role": "user", "content": "x"}],
            extra_body={"frobnicate": 1},
            extra_headers={"DMR-Strict": "1"},
        )
    assert "'frobnicate' would be ignored" in strict.value.message


def test_the_models(served: Served) -> None:
    assert {"docker.io/dmr/demo:latest", "docker.io/e2e/tooled:latest", "docker.io/e2e/thinking:latest"} == {
        m.id for m in served.client.models.list()
    }
    assert MODEL == served.client.models.retrieve(MODEL).id
