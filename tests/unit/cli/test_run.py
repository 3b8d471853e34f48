"""Asking a model: what is sent, what is printed where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dmr_cli.client import piped
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

CHAT = "/engines/v1/chat/completions"


def delta(content: str = "", reasoning: str = "", finish: str | None = None) -> bytes:
    part = {"content": content} if content else {"reasoning_content": reasoning}
    return b"data: " + json.dumps({"choices": [{"delta": part, "finish_reason": finish}]}).encode() + b"\n\n"


def answer(*chunks: bytes, cut: bool = False) -> Answer:
    return Answer(chunks=chunks, headers={"Content-Type": "text/event-stream"}, cut=cut)


HELLO = answer(delta("Hel"), b": keep-alive\n\n", delta("lo"), b"data:[DONE]\n\n")


@pytest.fixture(autouse=True)
def _no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def model(server: CannedServer) -> CannedServer:
    server.on("GET", "/models/m", {"id": "sha256:0"})
    return server


def test_one_question_one_answer(model: CannedServer, dmr: Dmr) -> None:
    model.on("POST", CHAT, HELLO)

    assert dmr("run", "m", "say", "hi") == (0, "Hello\n", "")
    assert model.requests[-1].json == {
        "model": "m",
        "messages": [{"role": "user", "content": "say hi"}],
        "stream": True,
    }


def test_settings_and_a_system_message(model: CannedServer, dmr: Dmr) -> None:
    model.on("POST", CHAT, HELLO)

    dmr("run", "--system", "be kind", "--temperature", "0.5", "--max-tokens", "7", "m", "q")

    assert model.requests[-1].json == {
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q"}],
        "stream": True,
        "temperature": 0.5,
        "max_tokens": 7,
    }


def test_thoughts_go_to_stderr(model: CannedServer, dmr: Dmr) -> None:
    chunks = [delta(reasoning="hm"), delta(reasoning="m"), delta("42", finish="stop")]
    model.on("POST", CHAT, answer(*chunks))

    assert dmr("run", "m", "q") == (0, "42\n", "hmm\n")


def test_a_plain_json_answer_and_words_before_it(model: CannedServer, dmr: Dmr) -> None:
    document = json.dumps({"choices": [{"message": {"content": "hi"}}]}, indent=1).encode()
    model.on("POST", CHAT, Answer(body=b"Installing llama.cpp backend...\n" + document))

    assert dmr("run", "m", "q") == (0, "hi\n", "Installing llama.cpp backend...\n")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (b'data: {"error":{"message":"out of memory","type":"x"}}\n\n', "out of memory"),
        (b'data: {"type":"error","code":null,"message":"exit status 1"}\n\n', "exit status 1"),
        (b'event: error\ndata: {"error":"words"}\n\n', "words"),
        (b"data: nonsense\n\n", "the service sent an event that is not JSON: nonsense"),
        (b"data: 1\n\n", "the service sent an event that is not an object"),
        (b"", "the answer was cut off"),
    ],
)
def test_a_failure_on_the_way_keeps_what_was_said(model: CannedServer, dmr: Dmr, failure: bytes, message: str) -> None:
    model.on("POST", CHAT, answer(delta("Half an"), failure))

    assert dmr("run", "m", "q") == (1, "Half an\n", f"Error: {message}\n")


def test_a_connection_that_breaks_on_the_way(model: CannedServer, dmr: Dmr) -> None:
    model.on("POST", CHAT, answer(delta("Half"), cut=True))

    expected = f"Error: {model.url} closed the connection in the middle of its answer\n"
    assert dmr("run", "m", "q") == (1, "Half\n", expected)


def test_a_refusal_has_no_output(model: CannedServer, dmr: Dmr) -> None:
    model.on("POST", CHAT, Answer(507, b'{"error":{"message":"needs 9 GB, has 1 GB"}}'))

    assert dmr("run", "m", "q") == (1, "", "Error: needs 9 GB, has 1 GB\n")


def test_a_missing_model_is_pulled_first(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/models/m", Answer(404, b"model not found\n"))
    server.on("POST", "/models/create", Answer(body=b'{"type":"success","message":"Model pulled successfully"}\n'))
    server.on("POST", CHAT, HELLO)

    expected = "Unable to find model 'm' locally. Pulling from the server.\nModel pulled successfully\n"
    assert dmr("run", "m", "q") == (0, "Hello\n", expected)


def test_detach_only_loads(model: CannedServer, dmr: Dmr) -> None:
    model.on("POST", CHAT, Answer())

    assert dmr("run", "-d", "m") == (0, "", "")
    assert model.requests[-1].headers["x-preload-only"] == "true"
    assert model.requests[-1].json == {"model": "m", "messages": [], "stream": False}


def test_json_is_the_whole_answer(model: CannedServer, dmr: Dmr) -> None:
    document = {"choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 3}}
    model.on("POST", CHAT, document)

    outcome = dmr("run", "--json", "m", "q")

    assert (outcome.code, json.loads(outcome.out)) == (0, document)
    assert model.requests[-1].json["stream"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ("-d", "m", "prompt"),
        ("-i", "m", "prompt"),
        ("-i", "--json", "m"),
        ("m",),
        ("--temperature", "-1", "m", "q"),
        ("--max-tokens", "0", "m", "q"),
        ("--no-stdin", "m", " "),
    ],
)
def test_what_makes_no_sense_is_refused(model: CannedServer, dmr: Dmr, arguments: tuple[str, ...]) -> None:
    outcome = dmr("run", *arguments)

    assert (outcome.code, outcome.out, model.requests) == (2, "", [])


def test_what_is_piped_in_is_the_prompt_or_is_added_to_it(
    model: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.on("POST", CHAT, HELLO)
    for arguments, content in (((), "text\nmore"), (("sum up",), "sum up\n\ntext\nmore"), (("--no-stdin", "q"), "q")):
        monkeypatch.setattr(sys, "stdin", io.StringIO("text\nmore\n"))
        assert dmr("run", "m", *arguments).code == 0
        assert model.requests[-1].json["messages"][-1]["content"] == content


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An open pipe on stdin; its writing end."""
    read, write = os.pipe()
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield write
    os.close(write)


def test_an_open_and_silent_pipe_does_not_make_it_hang(
    model: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch, pipe: int
) -> None:
    monkeypatch.setattr(piped, "PATIENCE", 0.01)
    model.on("POST", CHAT, HELLO)

    outcome = dmr("run", "m", "q")

    assert (outcome.code, outcome.out) == (0, "Hello\n")
    assert "Nothing came on standard input" in outcome.err
    assert model.requests[-1].json["messages"][-1]["content"] == "q"


def test_talking_through_a_pipe_keeps_the_history(
    model: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = '/set system be kind\nfirst\n\n"""two\nlines"""\n/clear\n/nope\n/?\n/set x\nthird\n/bye\nnever\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    model.on("POST", CHAT, HELLO)

    outcome = dmr("run", "-i", "m")

    assert (outcome.code, outcome.out) == (0, "Hello\nHello\nHello\n")
    assert "Unknown command '/nope'. Type /? for help\nCommands:\n" in outcome.err
    sent: list[Any] = [request.json["messages"] for request in model.requests if request.path == CHAT]
    system = {"role": "system", "content": "be kind"}
    first, said = {"role": "user", "content": "first"}, {"role": "assistant", "content": "Hello"}
    assert sent == [
        [system, first],
        [system, first, said, {"role": "user", "content": "two\nlines"}],
        [system, {"role": "user", "content": "third"}],
    ]


def test_talking_through_a_pipe_ends_at_the_first_failure(
    model: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\n"))
    model.on("POST", CHAT, Answer(500, b"boom"))

    assert dmr("run", "-i", "m") == (1, "", "Error: boom\n")
