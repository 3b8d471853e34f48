"""``dmr requests``: what it asks for, and what it prints where."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from dmr_cli.client.commands.requests import requests
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

RECORD: dict[str, Any] = {
    "id": "sha256:abc_2",
    "model": "smollm2",
    "request": '{"messages":[{"role":"user","content":"why is\\nthe sky blue"}]}',
    "response": '{"choices":[{"message":{"content":"It is not."}}]}',
    "timestamp": 0,
    "status_code": 200,
    "duration_ms": 1234.5,
}
FAILED: dict[str, Any] = {"id": "sha256:abc_1", "model": "smollm2", "request": "x" * 60, "error": '{"error":"no"}'}
ENTRY: dict[str, Any] = {"count": 2, "model": "sha256:abc", "config": {}, "records": [RECORD, FAILED]}
EVENTS = {"Content-Type": "text/event-stream"}


def sse(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr_cli.client.commands.requests.is_terminal", lambda stream: stream is sys.stdout)


def test_scripts_get_what_the_service_says(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/requests", [ENTRY])
    code, out, err = dmr("requests")

    assert (0, [ENTRY], "") == (code, json.loads(out), err)
    assert dmr("requests", "--json").out == out


@pytest.mark.usefixtures("terminal")
def test_people_get_a_table(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/requests", [ENTRY])
    _, out, _ = dmr("requests")
    headings, failed, answered = out.splitlines()

    assert headings.split() == ["TIME", "MODEL", "STATUS", "TOOK", "ASKED", "ANSWERED"]
    assert "…" in failed
    assert '{"error":"no"}' in failed
    assert answered.split()[1:4] == ["smollm2", "200", "1.23s"]
    assert answered.endswith("why is the sky blue" + " " * 29 + "  It is not.")


def test_a_model_can_be_named(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/requests", [])

    assert dmr("requests", "--model", "ai/smollm2:latest").out == "[]\n"
    assert server.requests[-1].path == "/engines/requests?model=ai%2Fsmollm2%3Alatest"


def test_following_prints_records_as_they_come_and_talks_on_stderr(server: CannedServer, dmr: Dmr) -> None:
    chunks = [
        sse("existing_request", [{**ENTRY, "count": 1}]),
        sse("connected", {"status": "connected"}),
        b": ping\n\n",
        sse("new_request", [ENTRY]),
        sse("something_new", "{}"),
    ]
    server.on("GET", "/engines/requests", Answer(chunks=chunks, headers=EVENTS))
    code, out, err = dmr("requests", "-f", "--include-existing", "--model", "m")

    assert [[{**ENTRY, "count": 1}], [ENTRY]] == [json.loads(line) for line in out.splitlines()]
    assert "Connected to request stream. Press Ctrl+C to stop.\nStream closed by server.\n" == err
    assert 0 == code
    assert server.requests[-1].path == "/engines/requests?model=m&include_existing=true"
    assert server.requests[-1].headers["accept"] == "text/event-stream"


@pytest.mark.usefixtures("terminal")
def test_following_on_a_terminal_is_a_line_each(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/requests", Answer(chunks=[sse("new_request", [ENTRY])], headers=EVENTS))

    assert 2 == len(dmr("requests", "-f").out.splitlines())


def test_being_dropped_is_a_failure_that_says_why(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/engines/requests", Answer(chunks=[sse("error", {"error": "too slow"})], headers=EVENTS))

    assert (1, "", "Error: the stream of requests ended: too slow\n") == dmr("requests", "--follow")


def test_a_service_that_records_nothing_says_how_to_change_that(server: CannedServer, dmr: Dmr) -> None:
    text = b"requests are not recorded: start the service with DMR_RECORD_REQUESTS=1 to record them\n"
    server.on("GET", "/engines/requests", Answer(404, text))

    for arguments in (["requests"], ["requests", "-f"]):
        assert (3, "", f"Error: {text.decode()}") == dmr(*arguments)


def test_flags_that_make_no_sense_together_are_refused(dmr: Dmr) -> None:
    code, _, err = dmr("requests", "--include-existing")

    assert 2 == code
    assert "--include-existing can only be used with --follow" in err
    assert requests.help
