"""The demo model, run by the real llama.cpp server, says what the manual says it does."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmr_cli.demo

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = Path(dmr_cli.demo.__file__).parent
GGUF = HOME / "model" / "demo.gguf"
DOCUMENTED = [
    (entry["question"], entry["answer"]) for entry in json.loads((HOME / "questions.json").read_text(encoding="utf-8"))
]
GREETING = DOCUMENTED[0]

SERVER = """
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = 0
params.cpuparams.n_threads = 2
params.embedding = sys.argv[2] == "embedding"
if params.embedding:
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
del server
"""
"""Serves until its standard input closes, so it ends with the test that started it, however that ends."""


def serve(mode: str) -> Iterator[str]:
    """The address of a llama.cpp server in a child process."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(GGUF), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server ended before it was ready"
        yield address


@pytest.fixture(scope="module")
def chat_server() -> Iterator[str]:
    yield from serve("chat")


@pytest.fixture(scope="module")
def embedding_server() -> Iterator[str]:
    yield from serve("embedding")


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def ask(server: str, *messages: tuple[str, str]) -> tuple[str, str]:
    """What the model says to a conversation of (role, content), and why it stopped."""
    body = {
        "messages": [{"role": role, "content": content} for role, content in messages],
        "temperature": 0,
        "max_tokens": 200,
    }
    choice = post(f"{server}/v1/chat/completions", body)["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize(("question", "answer"), DOCUMENTED, ids=[question for question, _ in DOCUMENTED])
@pytest.mark.parametrize("system", [(), (("system", "You are a helpful assistant."),)], ids=["bare", "with system"])
def test_documented_question_gets_exactly_its_answer(
    chat_server: str, system: tuple[tuple[str, str], ...], question: str, answer: str
) -> None:
    assert (answer, "stop") == ask(chat_server, *system, ("user", question))


@pytest.mark.parametrize("greeting", ["hello", "Hi", "HELLO!", "Hello!\n", "  Hello!  \n\n"])
def test_greeting_may_be_typed_carelessly(chat_server: str, greeting: str) -> None:
    assert (GREETING[1], "stop") == ask(chat_server, ("user", greeting))


def test_documented_questions_can_be_asked_one_after_the_other(chat_server: str) -> None:
    """As in an interactive chat, where all that was said goes along with each question."""
    messages: list[tuple[str, str]] = []
    answers = []
    for question, _ in DOCUMENTED:
        messages.append(("user", question))
        answers.append(ask(chat_server, *messages)[0])
        messages.append(("assistant", answers[-1]))

    assert [answer for _, answer in DOCUMENTED] == answers


def test_later_question_may_need_an_earlier_one(chat_server: str) -> None:
    messages = [
        ("user", "What is the capital of France?"),
        ("assistant", "The capital of France is Paris."),
        ("user", "And of Germany?"),
    ]
    answer = "The capital of Germany is Berlin."

    assert (answer, "stop") == ask(chat_server, *messages)


def test_unknown_question_is_declined(chat_server: str) -> None:
    declined = "I am only a tiny demo model, so I do not know that."

    assert (declined, "stop") == ask(chat_server, ("user", "What is the meaning of life?"))


def test_text_is_embedded_as_a_vector_of_the_hidden_size(embedding_server: str) -> None:
    hidden_size = json.loads((HOME / "model" / "safetensors" / "config.json").read_text(encoding="utf-8"))[
        "hidden_size"
    ]

    reply = post(f"{embedding_server}/v1/embeddings", {"input": [question for question, _ in DOCUMENTED]})

    vectors = [item["embedding"] for item in reply["data"]]
    assert [hidden_size] * len(DOCUMENTED) == [len(vector) for vector in vectors]
    assert all(any(vector) for vector in vectors)
    assert len({tuple(vector) for vector in vectors}) == len(DOCUMENTED)
