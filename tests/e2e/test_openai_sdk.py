"""The official ``openai`` client, unmodified, through both base paths."""

from __future__ import annotations

import math
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_main_job import QUESTIONS

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
