"""The stand-in of the stock CLI notices a service that deviates from what that CLI depends on."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.canned_server import Answer, CannedServer
from tests.stand_ins.stock_cli import main

ID = "sha256:" + "0123456789abcdef" * 4
MODEL: dict[str, Any] = {"id": ID, "tags": ["docker.io/ai/m:latest"], "created": 0, "config": {}}
SUCCESS = {"type": "success", "message": "Model pulled successfully", "total": 0, "layer": {"size": 0, "current": 0}}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as canned:
        yield canned


@pytest.fixture
def run(server: CannedServer, capsys: pytest.CaptureFixture[str]) -> Run:
    def _run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments, {"MODEL_RUNNER_HOST": server.url, "STOCK_CLI_RETRY_SCALE": "0"})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


def _line(**changes: object) -> bytes:
    return (html.escape(json.dumps({**SUCCESS, "mode": "pull", **changes})) + "\n").encode()


def test_it_says_who_it_is_and_asks_for_no_type(server: CannedServer, run: Run) -> None:
    server.on("GET", "/models", [])
    assert run("ls", "-q") == (0, "", "")
    headers = {name.lower(): value for name, value in server.requests[-1].headers.items()}
    assert headers["user-agent"] == "docker-model-cli/1.2.6"
    assert not {"accept", "authorization", "content-type"} & set(headers)


def test_references_go_raw_into_cleaned_paths(server: CannedServer, run: Run) -> None:
    server.on("GET", f"/models/ai/m@{ID}", MODEL)
    assert run("inspect", f"ai//m@{ID}")[0] == 0
    assert server.requests[-1].path == f"/models/ai/m@{ID}"
    assert run("inspect", "")[0] == 1
    assert server.requests[-1].path == "/models"


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param(_line(), 0, "Model pulled successfully", id="escaped"),
        pytest.param(html.unescape(_line().decode()).encode(), 0, "Model pulled successfully", id="raw"),
        pytest.param(_line(type="error", message="no"), 1, "Failed to pull model: no", id="error"),
        pytest.param(b"<html>\n", 1, "unexpected response from server (not valid progress data): <html>", id="garbage"),
        pytest.param(_line(type="progress"), 1, "unexpected EOF", id="no end"),
        pytest.param(_line(total=-1), 1, "not valid progress data", id="negative"),
        pytest.param(_line() + b"plain text\n", 1, "lines that are no progress", id="text appended"),
        pytest.param(_line(message="x" * 70_000), 1, "token too long", id="long line"),
    ],
)
def test_progress_is_read_as_that_cli_reads_it(
    server: CannedServer, run: Run, body: bytes, code: int, words: str
) -> None:
    server.on("POST", "/models/create", Answer(body=body))
    done = run("pull", "m")
    assert done[0] == code
    assert words in done[1] + done[2]


@pytest.mark.parametrize(("status", "tries"), [(502, 5), (503, 5), (504, 5), (404, 1), (500, 1), (401, 1)])
def test_transfers_are_tried_again_where_it_may_help(server: CannedServer, run: Run, status: int, tries: int) -> None:
    server.on("POST", "/models/create", Answer(status=status, body=b"why\n"))
    assert run("pull", "m")[0] == 1
    assert len(server.requests) == tries


def test_a_connection_that_breaks_is_tried_again(server: CannedServer, run: Run) -> None:
    server.on("POST", "/models/m/push", Answer(body=b"x" * 100, cut=True), Answer(body=_line(mode="push")))
    assert run("push", "m")[0] == 0
    assert len(server.requests) == 2


def test_503_is_not_running(server: CannedServer, run: Run) -> None:
    server.on("GET", "/models", Answer(status=503, body=b"busy\n"))
    assert run("ls")[0] == 1
    assert "Docker Model Runner is not running" in run("status")[2]


@pytest.mark.parametrize(("status", "code"), [(201, 0), (200, 1), (204, 1)])
def test_a_tag_is_answered_with_201_exactly(server: CannedServer, run: Run, status: int, code: int) -> None:
    server.on("POST", "/models/m/tag", Answer(status=status, body=b"{}"))
    assert run("tag", "m", "org/x")[0] == code
    assert server.requests[-1].path == "/models/m/tag?repo=docker.io/org/x&tag=latest"


@pytest.mark.parametrize("target", ["UPPER", "a@" + ID, "a:b:c", "", "x" * 300])
def test_a_bad_target_never_reaches_the_service(server: CannedServer, run: Run, target: str) -> None:
    assert run("tag", "m", target)[0] == 1
    assert server.requests == []


@pytest.mark.parametrize(
    "model", [{**MODEL, "config": None}, {**MODEL, "id": "short"}, {**MODEL, "created": "now"}, {**MODEL, "tags": None}]
)
def test_a_model_that_would_crash_that_cli_fails(server: CannedServer, run: Run, model: dict[str, Any]) -> None:
    server.on("GET", "/models", [model])
    assert run("ls")[0] == 1


def test_an_archive_is_loaded_and_tagged_by_its_id(server: CannedServer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    server.on("POST", "/models/load", Answer(body=_line()))
    refused = run("package", "--gguf", str(tmp_path / "m.gguf"), "m")
    assert refused[0] == 1
    load, tag = server.requests
    assert {name.lower(): value for name, value in load.headers.items()}["content-type"] == "application/x-tar"
    assert tag.path.startswith("/models/sha256:")
    assert tag.path.endswith("/tag?repo=docker.io/ai/m&tag=latest")


def test_it_is_a_program(server: CannedServer) -> None:
    server.on("GET", "/models", [MODEL])
    done = subprocess.run(
        [sys.executable, "-m", "tests.stand_ins.stock_cli", "ls", "-q"],
        env={"PATH": os.environ["PATH"], "MODEL_RUNNER_HOST": server.url},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0123456789ab\n", b"")
