"""The official ``openai`` client, unmodified, through both base paths."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS
from tests.stand_ins.tool_template import package_with_tools

MODEL = "dmr/demo"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("sdk")
    daemon = Daemon(root, daemon_environment(root))
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(params=["/v1", "/engines/llama.cpp/v1"])
def client(served: Daemon, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + request.param, api_key="unused", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("name", [MODEL, "dmr/demo:latest", "docker.io/dmr/demo"])
def test_chat(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTIONS[0]["question"]}], temperature=0
    )

    assert QUESTIONS[0]["answer"] == answer.choices[0].message.content
    assert (name, "stop") == (answer.model, answer.choices[0].finish_reason)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("name", [MODEL, "docker.io/dmr/demo:latest"])
def test_streamed_chat(client: openai.OpenAI, name: str) -> None:
    stream = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTIONS[8]["question"]}], temperature=0, stream=True
    )
    with stream:
        chunks = list(stream)

    assert QUESTIONS[8]["answer"] == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert {name} == {chunk.model for chunk in chunks}
    assert len(chunks) > 5


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["Hello!", "What is dmr?"])

    assert MODEL == answer.model
    first, second = (entry.embedding for entry in answer.data)
    assert len(first) == len(second) == 128
    assert first != second
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-3)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0)

    assert MODEL == answer.model
    assert answer.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    assert ["docker.io/dmr/demo:latest"] == [model.id for model in client.models.list()]
    assert MODEL == client.models.retrieve(MODEL).id


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])

    assert caught.value.code == "model_not_found"


def test_usage_at_the_end_of_a_stream_when_it_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTIONS[0]["question"]}],
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:
        chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Bonn", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_a_json_schema_is_kept_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A city, please."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Bonn", "Rome")


@pytest.fixture(scope="module")
def tooled(served: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    return package_with_tools(served, tmp_path_factory.mktemp("template"))


def test_tools_whole_streamed_and_back(client: openai.OpenAI, tooled: str) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "description": "w", "parameters": SCHEMA}}]
    messages: Any = [{"role": "user", "content": "Weather?"}]
    options: Any = {"model": tooled, "tools": tools, "temperature": 0, "parallel_tool_calls": False}
    whole = client.chat.completions.create(messages=messages, tool_choice="required", **options)
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Rome")

    with client.chat.completions.create(messages=messages, tool_choice="required", stream=True, **options) as stream:
        deltas = [one for chunk in stream if chunk.choices for one in chunk.choices[0].delta.tool_calls or []]
    assert {0} == {delta.index for delta in deltas}
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(arguments)["city"] in ("Bonn", "Rome")

    messages += [
        whole.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    back = client.chat.completions.create(messages=messages, tool_choice="none", max_tokens=10, **options)
    assert back.choices[0].message.content


def test_several_calls_in_one_answer(client: openai.OpenAI, tooled: str) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "description": "w", "parameters": SCHEMA}}]
    answer = client.chat.completions.create(
        model=tooled,
        messages=[{"role": "user", "content": "Weather?"}],
        tools=tools,
        tool_choice="required",
        temperature=0,
        max_tokens=400,
    )
    calls = answer.choices[0].message.tool_calls or []
    assert len(calls) > 1
    assert len({call.id for call in calls}) == len(calls)


def test_streamed_completions(client: openai.OpenAI) -> None:
    with client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def post(served: Daemon, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/engines/rerank", "/engines/llama.cpp/v1/rerank"])
def test_rerank(served: Daemon, path: str) -> None:
    status, answer = post(served, path, {"model": MODEL, "query": "Hello", "documents": ["Hello", "Count to five."]})
    assert (200, MODEL) == (status, answer["model"])
    assert {0, 1} == {result["index"] for result in answer["results"]}


def test_what_the_engine_cannot_do_is_said_in_openais_shape(served: Daemon, client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="generate images") as caught:
        client.images.generate(model=MODEL, prompt="a cat")
    assert caught.value.code is not None
    status, answer = post(served, "/score", {"model": MODEL, "text_1": "a", "text_2": "b"})
    assert (422, "unsupported_operation") == (status, answer["error"]["code"])


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 2000}])
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nope")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as unknown:
        client.files.list()
    assert (404, "not_found") == (unknown.value.status_code, unknown.value.code)
