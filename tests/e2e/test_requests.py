"""Watching a real service being asked, with the real client."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Daemon


def ask(daemon: Daemon, path: str = "/v1/chat/completions", **body: Any) -> tuple[dict[str, str], bytes]:
    """POST; headers and body of the answer."""
    content = json.dumps({"model": "dmr/demo", "max_tokens": 8, **body}).encode()
    request = urllib.request.Request(daemon.url + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """What ``dmr requests`` prints."""
    return [record for entry in json.loads(daemon.cli("requests").stdout) for record in entry["records"]]


def test_requests_are_shown_as_they_happen_and_afterwards(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    question = [{"role": "user", "content": "What is your name? Bearer abcdefghijklmnop"}]
    seen = tmp_path / "seen"
    with seen.open("wb") as output, (tmp_path / "said").open("wb") as said:
        command = [sys.executable, "-m", "dmr_cli", "requests", "--follow"]
        watcher = subprocess.Popen(
            command,
            env={**daemon.environment, "MODEL_RUNNER_HOST": daemon.url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=said,
        )
        try:
            wait_for(lambda: b"Connected" in (tmp_path / "said").read_bytes())
            headers, whole = ask(daemon, messages=question, keep_alive=-1, temperature=0)
            ask(daemon, messages=question, stream=True, temperature=0)
            ask(daemon, "/v1/messages", messages=question, stream=True, temperature=0)
            wait_for(lambda: seen.read_bytes().count(b"\n") == 3)
            daemon.cli("unload", "--all")
            told = records(daemon)
            daemon.stop()
            assert watcher.wait(20) == 0
        finally:
            watcher.kill()
            watcher.wait()
    assert b"Stream closed by server." in (tmp_path / "said").read_bytes()

    text = json.loads(whole)["choices"][0]["message"]["content"]
    chat, streamed, anthropic = (json.loads(record["response"]) for record in told)
    assert text == chat["choices"][0]["message"]["content"] == streamed["choices"][0]["message"]["content"]
    assert text == anthropic["content"][0]["text"]
    assert streamed["choices"][0]["finish_reason"] == "length"
    assert told == [json.loads(line)[0]["records"][0] for line in seen.read_text().splitlines()]
    assert "abcdefghijklmnop" not in str(told)

    assert headers["x-dmr-backend"].startswith("llama.cpp; reason=")
    assert float(headers["server-timing"].partition("load;dur=")[2].partition(",")[0]) > 1


def test_recording_can_be_switched_off(daemon: Daemon) -> None:
    daemon.environment["DMR_RECORD_REQUESTS"] = "0"
    daemon.start()
    done = daemon.cli("requests", check=False)

    assert done.returncode == 3
    assert b"DMR_RECORD_REQUESTS=1" in done.stderr


def wait_for(reached: Any) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
