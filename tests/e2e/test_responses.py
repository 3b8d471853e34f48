"""The Responses API as the official ``openai`` client uses it, on real llama.cpp."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseStreamEvent

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS
from tests.event_rules import check_events
from tests.stand_ins.tool_template import package_with_tools

MODEL = "dmr/demo"
CAPITAL = next(one for one in QUESTIONS if "capital of France" in one["question"])
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 3, "maximum": 5}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("responses")
    daemon = Daemon(root, daemon_environment(root))
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(params=["/v1", "/engines/llama.cpp/v1"])
def client(served: Daemon, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with connected(served, request.param) as made:
        yield made


def connected(daemon: Daemon, base: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=daemon.url + base, api_key="unused", max_retries=0)


def ask(client: openai.OpenAI, question: str, **options: Any) -> Response:
    made = client.responses.create(model=MODEL, input=question, temperature=0, **options)
    assert isinstance(made, Response)
    return made


def streamed(client: openai.OpenAI, question: str, **options: Any) -> list[ResponseStreamEvent]:
    with client.responses.create(model=MODEL, input=question, temperature=0, stream=True, **options) as stream:
        return list(stream)


def checked(events: list[ResponseStreamEvent]) -> Response:
    """The final response of a stream that obeys the rules, read by the client and by ours."""
    final = check_events([event.model_dump() for event in events])
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.id == final["id"]
    return last.response


def until_ended(client: openai.OpenAI, name: str) -> Response:
    """Watch a response in the background until nothing more is said of it."""
    with client.responses.retrieve(name, stream=True) as stream:
        list(stream)
    return client.responses.retrieve(name)


def test_text(client: openai.OpenAI) -> None:
    answer = ask(client, CAPITAL["question"])
    assert (CAPITAL["answer"], "completed", MODEL) == (answer.output_text, answer.status, answer.model)
    (message,) = answer.output
    assert isinstance(message, ResponseOutputMessage)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    events = streamed(client, CAPITAL["question"])
    final = checked(events)
    assert final.output_text == CAPITAL["answer"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 3
    assert "".join(deltas) == CAPITAL["answer"]
    assert client.responses.retrieve(final.id).output_text == CAPITAL["answer"]


def test_the_clients_own_stream_helper_puts_it_together(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=CAPITAL["question"], temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == CAPITAL["answer"]


def test_an_answer_that_is_cut_short_is_incomplete(client: openai.OpenAI) -> None:
    whole = ask(client, "Count to five.", max_output_tokens=3)
    final = checked(streamed(client, "Count to five.", max_output_tokens=3))
    for answer in (whole, final):
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_json_schema_is_kept_to(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}}
    whole = ask(client, "Say something.", text=form)
    final = checked(streamed(client, "Say something.", text=form))
    for answer in (whole, final):
        said = json.loads(answer.output_text)
        assert said["colour"] in ("red", "green")
        assert 3 <= said["count"] <= 5


def test_probabilities_of_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, CAPITAL["question"], top_logprobs=2, include=["message.output_text.logprobs"])
    message = answer.output[0]
    assert isinstance(message, ResponseOutputMessage)
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(entry.token for entry in part.logprobs).strip() == CAPITAL["answer"]
    assert len(part.logprobs[0].top_logprobs) == 2


def test_a_conversation_goes_on_across_a_restart_however_the_service_ended(tmp_path: Path) -> None:
    """What was said, by both, is what the engine is told; the second service is killed."""
    daemon = Daemon(tmp_path, daemon_environment(tmp_path))
    questions = [CAPITAL["question"], "And of Spain?", "And of Italy?"]
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        previous: str | None = None
        answers: list[Response] = []
        for number, question in enumerate(questions):
            with connected(daemon) as client:
                answers.append(ask(client, question, previous_response_id=previous))
                previous = answers[-1].id
                items = list(client.responses.input_items.list(previous, order="asc", limit=2))
            told = [part["text"] for item in items for part in item.model_dump()["content"]]
            said = [text for pair in zip(questions, answers, strict=False) for text in (pair[0], pair[1].output_text)]
            assert told == [*said[: 2 * number], question]
            daemon.stop(signal.SIGKILL if number else signal.SIGTERM)
            daemon.start()
        with connected(daemon) as client:
            assert answers[0].usage is not None
            assert answers[2].usage is not None
            assert answers[2].usage.input_tokens > 2 * answers[0].usage.input_tokens
            client.responses.delete(answers[0].id)
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, "And of Poland?", previous_response_id=previous)
            assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    finally:
        daemon.stop()


def test_a_background_response_is_watched_resumed_and_deleted(client: openai.OpenAI) -> None:
    made = ask(client, "Count to five.", background=True)
    assert made.status in ("queued", "in_progress")
    final = until_ended(client, made.id)
    assert (final.status, final.output_text) == ("completed", "1, 2, 3, 4, 5.")
    with client.responses.retrieve(made.id, stream=True) as stream:
        events = list(stream)
    assert checked(events).id == made.id
    with client.responses.retrieve(made.id, stream=True, starting_after=4) as stream:
        assert [event.sequence_number for event in stream] == list(range(5, len(events)))
    assert client.responses.cancel(made.id).status == "completed"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(made.id)
    assert caught.value.code == "response_not_found"


def test_a_background_response_is_cancelled(client: openai.OpenAI) -> None:
    """Cancelled while it waits or works; a tiny model may be faster than both."""
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "string", "minLength": 800}}}
    made = ask(client, "Say something long.", background=True, text=form)
    cancelled = client.responses.cancel(made.id)
    assert cancelled.status in ("cancelled", "completed", "incomplete")
    assert client.responses.retrieve(made.id).status == cancelled.status


def test_what_is_not_stored_is_not_there(client: openai.OpenAI) -> None:
    answer = ask(client, "Hello!", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="nope", input="Hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Hi", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0]"
    with pytest.raises(openai.BadRequestError, match="context"):
        ask(client, "word " * 2000)


def test_a_conversation_beyond_the_context_is_shortened_on_request(client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "word"}] * 6
    made = client.responses.create(
        model=MODEL, input=[*turns, {"role": "user", "content": CAPITAL["question"]}], truncation="auto", temperature=0
    )
    assert made.status == "completed"
    assert made.usage is not None
    assert made.usage.input_tokens < 1024


# --- tools, with a chat template that knows them

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Bonn", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def tooled(served: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    return package_with_tools(served, tmp_path_factory.mktemp("template"))


def test_a_tools_round_trip(client: openai.OpenAI, tooled: str) -> None:
    """The call is forced, and its arguments are kept to their schema: the demo model has never heard of tools."""
    asked = client.responses.create(
        model=tooled,
        input="Weather?",
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        parallel_tool_calls=False,
    )
    (call,) = [item for item in asked.output if isinstance(item, ResponseFunctionToolCall)]
    assert (call.name, call.status) == ("weather", "completed")
    assert json.loads(call.arguments)["city"] in ("Bonn", "Rome")

    told = client.responses.create(
        model=tooled,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
        tools=[WEATHER],
        tool_choice="none",
        temperature=0,
        max_output_tokens=20,
    )
    assert told.status in ("completed", "incomplete")
    items = [item.type for item in client.responses.input_items.list(told.id, order="asc")]
    assert items[-2:] == ["function_call", "function_call_output"]


def test_a_call_comes_as_events(client: openai.OpenAI, tooled: str) -> None:
    with client.responses.create(
        model=tooled,
        input="Weather?",
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        stream=True,
        max_output_tokens=400,
        parallel_tool_calls=True,
    ) as stream:
        events = list(stream)
    final = checked(events)
    calls = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
    assert len(calls) > 1, "a model that has to call calls again and again, until it is stopped"
    assert len({call.call_id for call in calls}) == len(calls)
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert deltas == "".join(call.arguments for call in calls)
