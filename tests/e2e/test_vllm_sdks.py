"""The official clients, unmodified, on the real vLLM: what its table of capabilities claims, in every dialect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anthropic
import ollama
import openai
import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS
from tests.equipment import vllm
from tests.event_rules import check_events
from tests.stand_ins.tool_model import ARGUMENTS, TOOL, write_tool_model

MODEL: Final = "dmr/demo:safetensors"
_QUESTION, _ANSWER = QUESTIONS[0]["question"], QUESTIONS[0]["answer"]
_LONG: Final = QUESTIONS[8]
_SAID: Final = [{"role": "user", "content": _QUESTION}]
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"enum": ["Bonn", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_TOOL: Final[dict[str, Any]] = {"name": "choose", "description": "Choose a city", "parameters": _SCHEMA}
_CALL: Final[dict[str, Any]] = {
    "model": MODEL,
    "messages": _SAID,
    "temperature": 0,
    "max_tokens": 60,
    "tools": [{"type": "function", "function": _TOOL}],
    "tool_choice": {"type": "function", "function": {"name": "choose"}},
}

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    program = vllm.installed()
    require("vllm", available=program is not None, reason="vLLM is not installed: `python -m tests.equipment.vllm`")
    root = tmp_path_factory.mktemp("vllm")
    # A model as small as this one would fill its answer with the blanks that JSON allows anywhere.
    dense = '--structured-outputs-config \'{"backend": "xgrammar", "disable_any_whitespace": true}\''
    flags = f"--enforce-eager --max-model-len 256 --enable-auto-tool-choice --tool-call-parser hermes {dense}"
    daemon = Daemon(root, daemon_environment(root) | {"VLLM_SERVER_PATH": str(program), "VLLM_ARGS": flags})
    try:
        daemon.start()
        daemon.cli("pull", MODEL)
        with openai.OpenAI(base_url=daemon.url + "/v1", api_key="unused", max_retries=0) as client:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": _QUESTION}], timeout=300)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def client(served: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=300) as made:
        yield made


@pytest.fixture
def messages(served: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url + "/anthropic", api_key="unused", max_retries=0) as made:
        yield made


# --- OpenAI


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": _QUESTION}], temperature=0
    )
    assert (answer.model, answer.choices[0].message.content) == (MODEL, _ANSWER)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_streamed_chat(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": _LONG["question"]}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == _LONG["answer"]
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert chunks[-1].usage is not None


def test_a_json_schema_is_kept_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": _QUESTION}],
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Bonn", "Rome")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_chosen_by_name_is_called(client: openai.OpenAI, stream: bool) -> None:
    """VLLM 0.32 holds such a call to JSON, and not to the tool's schema."""
    if stream:
        with client.chat.completions.create(**_CALL, stream=True) as chunks:
            calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
        name = next(call.function.name for call in calls if call.function and call.function.name)
        arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    else:
        (call,) = client.chat.completions.create(**_CALL).choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "choose"
    json.loads(arguments)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0)
    assert answer.model == MODEL
    assert answer.choices[0].text


def test_a_field_that_vllm_does_not_know_is_named_and_refused_to_the_strict(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": _SAID, "max_tokens": 4, "extra_body": {"grammar": "x"}}
    raw = client.chat.completions.with_raw_response.create(**asked)
    assert raw.headers["dmr-ignored"] == "grammar"
    with pytest.raises(openai.BadRequestError, match="grammar"):
        client.chat.completions.create(**asked, extra_headers={"DMR-Strict": "1"})


def test_responses_chain_and_their_events_follow_the_rules(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=_QUESTION, temperature=0)
    assert first.output_text == _ANSWER
    with client.responses.create(
        model=MODEL, input=_LONG["question"], temperature=0, previous_response_id=first.id, stream=True
    ) as stream:
        events = list(stream)
    final = check_events([event.model_dump() for event in events])
    assert final["previous_response_id"] == first.id
    assert final["usage"]["input_tokens"] > (first.usage.input_tokens if first.usage else 0)


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="dmr/nothing", messages=[{"role": "user", "content": "x"}])


# --- Anthropic


def test_a_message(messages: anthropic.Anthropic) -> None:
    answer = messages.messages.create(
        model=MODEL,
        max_tokens=60,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": _QUESTION}],
    )
    assert (answer.model, answer.content[0].type) == (MODEL, "text")
    assert getattr(answer.content[0], "text", "") == _ANSWER
    assert answer.stop_reason == "end_turn"


def test_a_streamed_message(messages: anthropic.Anthropic) -> None:
    with messages.messages.stream(
        model=MODEL,
        max_tokens=100,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": _LONG["question"]}],
    ) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert text == _LONG["answer"]
    assert (answer.model, answer.stop_reason) == (MODEL, "end_turn")


def test_tokens_are_counted_as_the_engine_counts_them(messages: anthropic.Anthropic) -> None:
    said: list[Any] = [{"role": "user", "content": _QUESTION}]
    counted = messages.messages.count_tokens(model=MODEL, messages=said).input_tokens
    used = messages.messages.create(model=MODEL, max_tokens=1, messages=said).usage
    assert counted == used.input_tokens + (used.cache_read_input_tokens or 0)


# --- Ollama


@pytest.mark.parametrize("stream", [False, True])
def test_ollamas_chat_and_generate(served: Daemon, stream: bool) -> None:
    with ollama.Client(host=served.url) as client:
        chat = client.chat(MODEL, _SAID, options={"temperature": 0}, stream=stream)
        made = client.generate(MODEL, _QUESTION, options={"temperature": 0}, stream=stream)
        chats, answers = (list(chat), list(made)) if stream else ([chat], [made])
    assert "".join(line.message.content or "" for line in chats) == _ANSWER
    assert "".join(line.response or "" for line in answers) == _ANSWER
    assert (chats[-1].done_reason, answers[-1].done_reason) == ("stop", "stop")
    assert chats[-1].eval_count > 2


def test_ollama_shows_and_keeps_to_a_schema(served: Daemon) -> None:
    with ollama.Client(host=served.url) as client:
        assert f"docker.io/{MODEL}" in {model.model for model in client.list().models}
        assert client.show(MODEL).details.format == "safetensors"
        assert any((model.model or "").endswith(MODEL) for model in client.ps().models)
        answer = client.chat(MODEL, _SAID, format=_SCHEMA, options={"temperature": 0, "num_predict": 60})
    assert json.loads(answer.message.content or "")["city"] in ("Bonn", "Rome")


# --- tools, with a model that always calls one


@pytest.fixture(scope="module")
def tooled(served: Daemon) -> str:
    write_tool_model(served.root / "tooled")
    served.cli("package", "--safetensors-dir", str(served.root / "tooled"), "e2e/tooled")
    return "e2e/tooled"


def test_openais_calls_whole_streamed_and_to_the_strict(client: openai.OpenAI, tooled: str) -> None:
    asked: dict[str, Any] = {"model": tooled, "messages": _SAID, "tools": [{"type": "function", "function": _TOOL}]}
    (choice,) = client.chat.completions.create(**asked, extra_headers={"DMR-Strict": "1"}).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (TOOL, ARGUMENTS)
    with client.chat.completions.create(**asked, stream=True) as chunks:
        calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function and call.function.name] == [TOOL]
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == ARGUMENTS


def test_anthropics_calls_whole_and_streamed_and_their_results(messages: anthropic.Anthropic, tooled: str) -> None:
    tools: list[Any] = [{"name": TOOL, "input_schema": _SCHEMA}]
    said: list[Any] = [{"role": "user", "content": _QUESTION}]
    answer = messages.messages.create(model=tooled, max_tokens=60, messages=said, tools=tools)
    (call,) = (block for block in answer.content if block.type == "tool_use")
    assert (call.name, call.input, answer.stop_reason) == (TOOL, ARGUMENTS, "tool_use")
    with messages.messages.stream(model=tooled, max_tokens=60, messages=said, tools=tools) as stream:
        streamed = stream.get_final_message()
    (again,) = (block for block in streamed.content if block.type == "tool_use")
    assert (again.name, again.input) == (TOOL, ARGUMENTS)
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
    turn: Any = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": call.id, "name": TOOL, "input": ARGUMENTS}],
    }
    after = messages.messages.create(model=tooled, max_tokens=60, messages=[*said, turn, result], tools=tools)
    assert after.usage.input_tokens > answer.usage.input_tokens


def test_a_call_in_a_response_and_its_way_back(client: openai.OpenAI, tooled: str) -> None:
    tools: Any = [{"type": "function", "name": TOOL, "parameters": _SCHEMA, "strict": False}]
    first = client.responses.create(model=tooled, input=_QUESTION, tools=tools)
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == (TOOL, ARGUMENTS)
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    with client.responses.create(
        model=tooled, input=output, tools=tools, previous_response_id=first.id, stream=True
    ) as stream:
        final = check_events([event.model_dump() for event in stream])
    assert final["output"][0]["type"] == "function_call"


def test_ollamas_calls(served: Daemon, tooled: str) -> None:
    with ollama.Client(host=served.url) as client:
        answer = client.chat(tooled, _SAID, tools=[{"type": "function", "function": _TOOL}])
    (call,) = answer.message.tool_calls or []
    assert (call.function.name, dict(call.function.arguments)) == (TOOL, ARGUMENTS)


# --- last, as they are another runner


def test_embeddings_in_both_dialects(served: Daemon, client: openai.OpenAI) -> None:
    entries = client.embeddings.create(model=MODEL, input=["Hello!", "What is dmr?"]).data
    first, second = (entry.embedding for entry in entries)
    assert len(first) == len(second) == 128
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-3)
    with ollama.Client(host=served.url, timeout=300) as ours:
        vectors = ours.embed(MODEL, ["Hello!"]).embeddings
    assert list(vectors[0]) == pytest.approx(first, abs=1e-4)


def test_the_program_is_the_one_that_was_installed(served: Daemon) -> None:
    assert vllm.VERSION in served.cli("status").stdout.decode()
    assert Path(vllm.program()).is_file()
