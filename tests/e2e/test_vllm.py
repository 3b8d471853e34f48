"""The real vLLM, on a processor: beside llama.cpp, for embeddings, killed, and where it must not be used."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon, daemon_environment, gone
from tests.equipment import vllm

DEMO: Final = Path(str(resources.files("dmr_cli.demo")))
QUESTIONS: Final = json.loads((DEMO / "questions.json").read_text())
GGUF: Final = "dmr/demo"
SAFETENSORS: Final = "dmr/demo:safetensors"
_LOADING: Final = 240

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A service that has vLLM, without the compilation that only pays for models that stay."""
    program = vllm.installed()
    require("vllm", available=program is not None, reason="vLLM is not installed: `python -m tests.equipment.vllm`")
    environment = daemon_environment(tmp_path)
    environment |= {"VLLM_SERVER_PATH": str(program), "VLLM_ARGS": "--enforce-eager --max-model-len 256"}
    made = Daemon(tmp_path, environment)
    try:
        made.start()
        yield made
    finally:
        made.stop()
    assert made.engines() == []


def ask(daemon: Daemon, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_LOADING) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def chat(daemon: Daemon, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    answer = ask(daemon, "/v1/chat/completions", {"model": model, "messages": messages, "temperature": 0})
    assert answer["model"] == model
    text: str = answer["choices"][0]["message"]["content"]
    return text


def children_of(pid: int) -> list[int]:
    """Every process that descends from ``pid``, and itself."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def test_both_engines_serve_side_by_side_and_none_outlives_a_killed_daemon_for_long(daemon: Daemon) -> None:
    for model in (GGUF, SAFETENSORS):
        daemon.cli("pull", model)
    for entry in QUESTIONS[:3]:
        answers = {chat(daemon, model, entry["question"]) for model in (GGUF, SAFETENSORS)}
        assert answers == {entry["answer"]}
    shown = {entry["model_name"]: entry for entry in json.loads(daemon.cli("ps", "--json").stdout)}
    assert {name: entry["backend_name"] for name, entry in shown.items()} == {GGUF: "llama.cpp", SAFETENSORS: "vllm"}

    # An answer as the Messages API has it comes from the engine itself.
    body = {"model": SAFETENSORS, "max_tokens": 40, "messages": [{"role": "user", "content": QUESTIONS[0]["question"]}]}
    message = ask(daemon, "/v1/messages", body)
    assert message["content"][0]["text"] == QUESTIONS[0]["answer"]

    engines = [pid for engine in daemon.engines() for pid in children_of(engine)]
    assert len(engines) >= 4, "vLLM has several processes of its own"
    daemon.stop(signal.SIGKILL)
    # The kernel ends a dead daemon's children; theirs are ended by the next daemon.
    daemon.start()
    assert gone(engines, 20)


def test_embeddings_come_from_vllm_and_an_engine_that_was_killed_is_started_anew(daemon: Daemon) -> None:
    daemon.cli("pull", SAFETENSORS)
    body = {"model": SAFETENSORS, "input": ["one", "one", "a tiny model"]}
    vectors = [entry["embedding"] for entry in ask(daemon, "/v1/embeddings", body)["data"]]
    hidden = json.loads((DEMO / "model" / "safetensors" / "config.json").read_text())["hidden_size"]
    assert [len(vector) for vector in vectors] == [hidden] * 3
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[2], abs=1e-2)

    (engine,) = daemon.engines()
    processes = children_of(engine)
    os.kill(engine, signal.SIGKILL)
    assert gone(processes, 20), "its own workers do not outlive it"
    while daemon.engines() == [engine] or json.loads(daemon.cli("ps", "--json").stdout):
        time.sleep(0.05)  # a request that comes before its end is seen is answered with it
    try:
        again = ask(daemon, "/v1/embeddings", body)
    except urllib.error.HTTPError as error:
        pytest.fail(f"not started anew: {error.code} {error.read().decode()}")
    assert len(again["data"]) == 3
    assert "was killed" in daemon.cli("why", SAFETENSORS).stdout.decode()


def test_asking_the_wrong_engine_is_told_at_once(daemon: Daemon) -> None:
    daemon.cli("pull", GGUF)
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(daemon, "/engines/vllm/v1/chat/completions", {"model": GGUF, "messages": []})
    assert caught.value.code == 422
    error = json.loads(caught.value.read())["error"]
    assert error["code"] == "unsupported_format"
    assert "vllm" in error["message"]
