"""Pulling and pushing: progress, retries, credentials and failures."""

from __future__ import annotations

import html
import io
import json
import os
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

from dmr_cli.client import transfer
from dmr_cli.client.bars import BarReporter
from dmr_cli.client.endpoint import Endpoint
from dmr_cli.client.errors import ClientError
from dmr_cli.client.progress import follow
from dmr_cli.client.reporters import PlainReporter, SilentReporter
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

LAYER = "sha256:" + "ab" * 32


def _layer(current: int, size: int = 1_000_000, mode: str = "pull") -> dict[str, Any]:
    layer = {"id": LAYER, "size": size, "current": current}
    return {"type": "progress", "message": "Downloaded: x", "total": size, "layer": layer, "mode": mode}


SUCCESS = {"type": "success", "message": "Model pulled successfully", "total": 0, "mode": "pull"}


def _stream(*events: dict[str, Any]) -> Answer:
    return Answer(chunks=[json.dumps(event).encode() + b"\n" for event in events])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr("dmr_cli.client.transfer.time.sleep", taken.append)
    return taken


def test_pull_shows_steps_on_stderr_and_the_result_on_stdout(server: CannedServer, dmr: Dmr) -> None:
    note = {"type": "progress", "message": "Fetching file list..."}
    warning = {"type": "warning", "message": "slow disk"}
    steps = [_layer(0), _layer(50_000), _layer(100_000), _layer(150_000), _layer(1_000_000)]
    server.on("POST", "/models/create", _stream(note, warning, *steps, SUCCESS))

    expected = "Fetching file list...\nWarning: slow disk\nDownloaded 100.00kB of 1.00MB\nDownloaded 1.00MB of 1.00MB\n"
    assert dmr("pull", "smollm2") == (0, "Model pulled successfully\n", expected)
    assert server.requests[0].json == {"from": "smollm2"}
    assert server.requests[0].headers["accept"] == "application/json"


def test_pull_quietly(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/models/create", _stream(_layer(1_000_000), SUCCESS))

    assert dmr("pull", "-q", "smollm2") == (0, "Model pulled successfully\n", "")


def test_pull_as_json_hands_the_lines_on(server: CannedServer, dmr: Dmr) -> None:
    events = [_layer(5), SUCCESS]
    server.on("POST", "/models/create", _stream(*events))

    outcome = dmr("pull", "--json", "smollm2")

    assert [json.loads(line) for line in outcome.out.splitlines()] == events
    assert (outcome.code, outcome.err) == (0, "")


def test_push_says_uploaded(server: CannedServer, dmr: Dmr) -> None:
    done = {"type": "success", "message": "Model pushed successfully", "mode": "push"}
    server.on("POST", "/models/localhost:5000/x:v1/push", _stream(_layer(1_000_000, mode="push"), done))

    expected = (0, "Model pushed successfully\n", "Uploaded 1.00MB of 1.00MB\n")
    assert dmr("push", "localhost:5000/x:v1") == expected
    assert server.requests[0].body == b""


@pytest.mark.parametrize(
    ("model", "sent"),
    [("hf.co/o/r", True), ("HuggingFace.co/o/r", True), ("smollm2", False), ("evil.co/hf.co/x", False)],
)
def test_the_hugging_face_token_goes_to_hugging_face_alone(
    server: CannedServer,
    dmr: Dmr,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    sent: bool,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.on("POST", "/models/create", _stream(SUCCESS))

    dmr("pull", model)

    assert server.requests[0].json == {"from": model} | ({"bearer-token": "secret"} if sent else {})


def test_a_token_is_not_sent_where_others_can_read_along() -> None:
    notes: list[str] = []

    class Notes(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    with mock.patch.dict(os.environ, {"HF_TOKEN": "secret"}):
        for endpoint, sent in (
            (Endpoint(host="192.0.2.1", port=80), False),
            (Endpoint(host="192.0.2.1", port=443, tls=True, verify=False), False),
            (Endpoint(host="192.0.2.1", port=443, tls=True), True),
            (Endpoint(host="127.0.0.1", port=80), True),
            (Endpoint(host="localhost", port=443, tls=True, verify=False), True),
            (Endpoint(socket_path="/run/dmr.sock"), True),
        ):
            notes.clear()
            assert bool(transfer._credential(endpoint, "hf.co/o/r", Notes())) is sent
            assert ("HF_TOKEN is not sent" in "".join(notes)) is not sent


def test_no_token_goes_with_a_push(server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.on("POST", "/models/hf.co/o/r/push", _stream(SUCCESS))

    dmr("push", "hf.co/o/r")

    assert "secret" not in str([(request.headers, request.body) for request in server.requests])


def test_an_error_line_is_the_error_of_the_command(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/models/create", _stream(_layer(5), {"type": "error", "message": "Error: no space left"}))

    assert dmr("pull", "x") == (1, "", "Error: no space left\n")


def test_an_error_line_can_say_not_found(server: CannedServer, dmr: Dmr) -> None:
    failure = {"type": "error", "message": "no such model", "code": "model_not_found"}
    server.on("POST", "/models/create", _stream(failure))

    assert dmr("pull", "x") == (3, "", "Error: no such model\n")


def test_a_refusal_before_the_stream_is_not_tried_again(server: CannedServer, dmr: Dmr, pauses: list[float]) -> None:
    server.on("POST", "/models/create", Answer(404, b"Model not found\n"))

    assert dmr("pull", "x") == (3, "", "Error: Model not found\n")
    assert (len(server.requests), pauses) == (1, [])


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(503, b"busy"),
        Answer(502),
        Answer(504),
        Answer(chunks=[json.dumps(_layer(5)).encode() + b"\n"], cut=True),
        _stream({"type": "error", "message": "read: connection reset by peer"}),
    ],
)
def test_passing_trouble_is_tried_again(server: CannedServer, dmr: Dmr, pauses: list[float], trouble: Answer) -> None:
    server.on("POST", "/models/create", trouble, trouble, _stream(SUCCESS))

    outcome = dmr("pull", "x")

    assert (outcome.code, outcome.out) == (0, "Model pulled successfully\n")
    assert "Retrying download (attempt 1/4) in 1s...\n" in outcome.err
    assert "Retrying download (attempt 2/4) in 2s...\n" in outcome.err
    assert pauses == [1, 2]


def test_trouble_that_stays_is_given_up(server: CannedServer, dmr: Dmr, pauses: list[float]) -> None:
    server.on("POST", "/models/x/push", Answer(503, b"busy"))

    outcome = dmr("push", "x")

    assert (outcome.code, outcome.err.splitlines()[-1]) == (1, "Error: push failed after 4 retries: busy")
    assert (len(server.requests), pauses) == (5, [1, 2, 4, 8])


def test_nobody_there_is_not_tried_again(dmr: Dmr, pauses: list[float]) -> None:
    outcome = dmr("--host", "127.0.0.1:1", "pull", "x")

    assert (outcome.code, pauses) == (4, [])


def test_an_empty_name_is_not_sent(server: CannedServer, dmr: Dmr) -> None:
    assert (dmr("pull", " ").code, dmr("push", "").code, server.requests) == (2, 2, [])


def test_lines_may_be_escaped_for_html() -> None:
    line = html.escape(json.dumps({"type": "success", "message": 'it\'s "done" <&>'})).encode()

    assert follow([line, b""], SilentReporter()) == 'it\'s "done" <&>'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [b"oops", b"really & truly"],
            "unexpected response from server (not valid progress data): oops\nreally & truly",
        ),
        ([b"x" * 5000], f"unexpected response from server (not valid progress data): {'x' * 4096}\n...[truncated]"),
        ([], "the service ended the transfer without saying how it went"),
        ([b'{"type":"error"}'], "the transfer failed"),
    ],
)
def test_a_stream_that_says_nothing_sensible_is_an_error(lines: list[bytes], message: str) -> None:
    with pytest.raises(ClientError) as caught:
        follow(lines, SilentReporter())

    assert caught.value.message == message


def test_steps_of_an_unknown_whole_are_counted_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainReporter()

    for current in (1, 99_999_999, 150_000_000, 199_999_999, 200_000_000):
        reporter.layer("a", current, 0, 0, "Downloading")

    assert capsys.readouterr().err == "Downloaded 150.00MB\nDownloaded 200.00MB\n"


def test_bars_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)

    with BarReporter(console) as reporter:
        reporter.note("a note \x1b[2J[red]")
        reporter.layer("abababababab", 0, 10, 10, "Downloading")
        reporter.layer("abababababab", 5, 10, 10, "Downloading")
        reporter.layer("abababababab", 10, 10, 10, "Downloading")

    shown = screen.getvalue()
    assert "a note [red]" in shown
    assert "\x1b[2J" not in shown
    assert "abababababab" in shown
    assert "Pull complete" in shown
