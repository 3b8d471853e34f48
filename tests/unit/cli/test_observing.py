"""``dmr logs`` and ``dmr why``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmr_cli.main import main
from dmr_cli.server.settings import read_settings
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr


def test_logs_are_printed_as_they_come(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/logs?follow=false&no-engines=false", Answer(body=b"[t] one\n[t] two\n"))
    server.on("GET", "/logs?follow=true&no-engines=true", Answer(body=b"[t] one\n"))

    assert dmr("logs") == (0, "[t] one\n[t] two\n", "")
    assert dmr("logs", "-f", "--no-engines") == (0, "[t] one\n", "")


def test_why_prints_sentences_and_then_decisions(server: CannedServer, dmr: Dmr) -> None:
    decision = {"age_seconds": 7.2, "what": "evicted", "text": "to make room for 'b'"}
    found = {"state": "evicted", "sentences": ["It was evicted.", "So it is."], "decisions": [decision]}
    server.on("GET", "/dmr/v1/why?model=a", found)
    server.on("GET", "/dmr/v1/why?model=a&mode=embedding", {"state": "never", "sentences": ["No."]})

    outcome = dmr("why", "a")
    assert outcome == (
        0,
        "It was evicted.\nSo it is.\n\nWHEN           WHAT     WHY\n7 seconds ago  evicted  to make room for 'b'\n",
        "",
    )
    assert json.loads(dmr("why", "a", "--json").out) == found
    assert dmr("why", "a", "--mode", "Embedding") == (0, "No.\n", "")


def test_why_exits_with_3_for_a_model_that_is_not_there(server: CannedServer, dmr: Dmr) -> None:
    server.on("GET", "/dmr/v1/why?model=a", {"state": "absent", "sentences": ["There is none."]})

    assert dmr("why", "a") == (3, "There is none.\n", "")


def test_logs_and_why_work_as_docker_model_too(
    server: CannedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "docker")
    monkeypatch.setenv("MODEL_RUNNER_HOST", server.url)
    server.on("GET", "/logs", Answer(body=b"[t] one\n"))
    server.on("GET", "/dmr/v1/why", {"state": "never", "sentences": ["No."]})

    assert [main(["model", "logs", "--no-engines"]), main(["--context", "x", "model", "why", "a"])] == [0, 0]
    assert capsys.readouterr().out == "[t] one\nNo.\n"


def test_the_log_directory_is_a_setting() -> None:
    home = {"HOME": "/root"}

    assert read_settings({**home, "MODEL_RUNNER_LOG_DIR": "/var/log/dmr"}).log_dir == Path("/var/log/dmr")
    assert read_settings(home).log_dir is None
