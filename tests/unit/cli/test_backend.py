"""``dmr backend``, and what ``dmr status`` adds to it."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from dmr_cli.client.share_bars import ShareBars
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

LLAMA = {
    "name": "llama.cpp",
    "summary": "GGUF models",
    "state": "installed",
    "detail": "llama.cpp b1",
    "formats": ["gguf"],
    "share": None,
    "retry_in": 0.0,
    "next": "",
}
VLLM = {
    "name": "vllm",
    "summary": "Safetensors models",
    "state": "installing",
    "detail": "downloading vllm (40%)",
    "formats": ["safetensors"],
    "share": 0.4,
    "retry_in": 0.0,
    "next": "",
}
NDJSON = {"content-type": "application/x-ndjson"}


def lines(*events: dict[str, object]) -> Answer:
    return Answer(chunks=[json.dumps(event).encode() + b"\n" for event in events], headers=NDJSON)


def progress(message: str, share: float | None = None) -> dict[str, object]:
    told: dict[str, object] = {"type": "progress", "message": message, "mode": "install"}
    return told if share is None else {**told, "share": share}


DONE: dict[str, object] = {"type": "success", "message": "vllm backend installed successfully"}


def test_the_list_is_a_table_or_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/backends", {"backends": [LLAMA, VLLM]})

    expected = (
        "NAME       STATE           DETAILS                 FORMATS      SUMMARY\n"
        "llama.cpp  installed       llama.cpp b1            gguf         GGUF models\n"
        "vllm       installing 40%  downloading vllm (40%)  safetensors  Safetensors models\n"
    )
    assert (0, expected, "") == dmr("backend", "list")
    assert [LLAMA, VLLM] == json.loads(dmr("backend", "list", "--json").out)


def test_a_service_that_is_not_dmr_lists_none(server: CannedServer, dmr: Dmr) -> None:
    expected = f"Error: the service at {server.url} lists no backends; is it dmr?\n"
    assert (1, "", expected) == dmr("backend", "list")


def test_installing_shows_each_tenth_on_stderr_and_the_result_on_stdout(server: CannedServer, dmr: Dmr) -> None:
    shares = [progress("downloading vllm", share) for share in (0.0, 0.11, 0.12, 0.5)]
    server.on("POST", "/engines/install-backend", lines(progress("resolving"), *shares, DONE))

    expected = "resolving\ndownloading vllm: 0%\ndownloading vllm: 10%\ndownloading vllm: 50%\n"
    assert (0, "vllm backend installed successfully\n", expected) == dmr("backend", "install", "vllm")
    (request,) = server.requests
    assert {"backend": "vllm"} == request.json
    assert "application/x-ndjson" == request.headers["accept"]


def test_installing_a_version_quietly_or_as_json(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/engines/install-backend", lines(progress("x", 0.5), DONE))

    told = dmr("backend", "install", "vllm", "--version", "0.19", "--quiet")
    assert (0, "vllm backend installed successfully\n", "") == told
    assert {"backend": "vllm", "version": "0.19"} == server.requests[0].json
    as_json = dmr("backend", "install", "vllm", "--json")
    assert (0, "") == (as_json.code, as_json.err)
    assert [progress("x", 0.5), DONE] == [json.loads(line) for line in as_json.out.splitlines()]


def test_a_service_of_the_reference_tells_only_the_end(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/engines/install-backend", Answer())
    server.on("POST", "/engines/uninstall-backend", Answer())

    assert (0, "vllm backend installed successfully\n", "") == dmr("backend", "install", "vllm")
    assert (0, "vllm backend uninstalled successfully\n", "") == dmr("backend", "uninstall", "vllm")
    assert {"backend": "vllm"} == server.requests[-1].json


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (Answer(404, b"backend not found\n"), 3, "backend not found"),
        (lines({"type": "error", "message": "Error: no network", "code": "backend_install_failed"}), 1, "no network"),
        (lines({"type": "error", "message": "Error: busy", "code": "conflict"}), 5, "busy"),
        (lines(progress("x")), 1, "the service ended the installation without saying how it went; see `dmr status`"),
        (Answer(chunks=[b"<html>"], headers=NDJSON), 1,
         "unexpected response from the service (not progress data): <html>"),
    ],
)  # fmt: skip
def test_installing_that_fails_says_why(
    server: CannedServer, dmr: Dmr, answer: Answer, code: int, message: str
) -> None:
    server.on("POST", "/engines/install-backend", answer)
    outcome = dmr("backend", "install", "vllm", "-q")

    assert (code, "", f"Error: {message}\n") == outcome


@pytest.mark.parametrize(("status", "code"), [(409, 5), (404, 3), (500, 1)])
def test_removing_that_is_refused_says_why(server: CannedServer, dmr: Dmr, status: int, code: int) -> None:
    server.on("POST", "/engines/uninstall-backend", Answer(status, b"no, because\n"))

    assert (code, "", "Error: no, because\n") == dmr("backend", "uninstall", "vllm")


def test_status_says_what_to_do_next(server: CannedServer, dmr: Dmr) -> None:
    vllm = {**VLLM, "next": "install vLLM", "retry_in": 3.6}
    server.on("GET", "/engines/status", {"llama.cpp": "Running: llama.cpp b1", "vllm": "Error: no network"})
    server.on("GET", "/dmr/v1/backends", {"backends": [LLAMA, vllm]})

    expected = (
        "Docker Model Runner is running\n\n"
        "BACKEND    STATUS   DETAILS\n"
        "llama.cpp  Running  llama.cpp b1\n"
        "vllm       Error    no network\n"
        "\nWhat's next:\n"
        "BACKEND  TO DO\n"
        "vllm     install vLLM (the next request tries again in 4 s)\n"
    )
    assert (0, expected, "") == dmr("status")
    assert [LLAMA, vllm] == json.loads(dmr("status", "--json").out)["details"]


def test_bars_finish_what_came_before_and_stop(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=80, legacy_windows=False)
    with ShareBars(console) as bars:
        bars.tell("downloading", 0.5)
        bars.tell("unpacking", None)
        bars.raw("{}")

    shown = capsys.readouterr().out
    assert "downloading" in shown
    assert "unpacking" in shown
    assert "100%" in shown
