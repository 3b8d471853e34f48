"""Settings of models with the real service and the real engine: every mode, and across restarts."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.artifact import LayerType, ModelConfig
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob
from tests.conftest import require
from tests.e2e.conftest import Daemon
from tests.stand_ins.lora_adapter import lora_adapter

WEIGHTS = Path(str(resources.files("dmr_cli.demo"))) / "model" / "demo.gguf"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def ask(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        daemon.url + path, method=method, data=None if body is None else json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def chat(daemon: Daemon, model: str = "dmr/demo", **extra: Any) -> str:
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16, **extra}
    status, answer = ask(daemon, "POST", "/v1/chat/completions", body)
    assert status == 200, answer
    text: str = answer["choices"][0]["message"]["content"]
    return text


def explained(daemon: Daemon, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        daemon.cli("configure", "show", "--explain", "--json", *arguments, "dmr/demo").stdout
    )
    return found


def values(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {setting["name"]: (setting["value"], setting["source"]) for setting in found["settings"]}


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def as_explained(found: dict[str, Any]) -> bool:
    """Whether the process has the argument vector that it is said to have, and would be started with."""
    (running,) = found["running"]
    actual = command_line(running["pid"])
    expected = [word if word != "SOCKET" else other for word, other in zip(found["argv"], actual, strict=True)]
    return running["argv"] == actual == expected and running["restart_pending"] is False


def test_settings_survive_the_service_however_it_ends(daemon: Daemon) -> None:
    daemon.environment["LLAMA_ARGS"] = "-ngl 0 --metrics --temp 0.9 --ctx-size 128"
    daemon.environment["DMR_KEEP_ALIVE"] = "20m"
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    daemon.cli("configure", "--context-size", "256", "--max-concurrency", "2", "dmr/demo", "--", "--top-k", "7")
    daemon.cli("configure", "--keep-alive", "1h", "--mode", "embedding", "dmr/demo")
    daemon.stop(signal.SIGKILL)

    daemon.start()
    daemon.cli("configure", "--reasoning-budget", "0", "dmr/demo")
    stored = {entry["Mode"]: entry["Config"] for entry in json.loads(daemon.cli("configure", "show").stdout)}
    assert stored == {
        "completion": {
            "context-size": 256,
            "max-concurrency": 2,
            "runtime-flags": ["--top-k", "7"],
            "llamacpp": {"reasoning-budget": 0},
        },
        "embedding": {"keep_alive": "1h0m0s"},
    }
    assert chat(daemon, keep_alive="45m") == ANSWER
    found = explained(daemon)
    assert as_explained(found)
    said = values(found)
    assert said["context-size"] == ("256", "configuration")
    assert said["--top-k"] == ("7", "configuration")
    assert said["--temp"] == ("0.9", "environment")
    assert said["keep_alive"] == ("45m0s", "request")
    assert values(explained(daemon, "--mode", "embedding"))["context-size"] == ("1024", "artifact")

    assert daemon.cli("configure", "reset", "dmr/demo").stdout == b"Settings of 'dmr/demo' are forgotten.\n"
    assert json.loads(daemon.cli("configure", "show").stdout) == []
    assert values(explained(daemon))["keep_alive"] == ("20m0s", "environment")


def test_embeddings_and_reranking_are_served_as_configured(daemon: Daemon) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    daemon.cli("configure", "--mode", "embedding", "--context-size", "64", "dmr/demo")
    status, answer = ask(daemon, "POST", "/v1/embeddings", {"model": "dmr/demo", "input": ["one", "two"]})
    assert (status, 2) == (200, len(answer["data"])), answer
    found = explained(daemon, "--mode", "embedding")
    assert as_explained(found)
    assert values(found)["context-size"] == ("64", "configuration")

    daemon.cli("configure", "--mode", "reranking", "dmr/demo", "--", "--pooling", "rank")
    body = {"model": "dmr/demo", "query": "a", "documents": ["a", "b"]}
    status, answer = ask(daemon, "POST", "/rerank", body)
    assert (status, 2) == (200, len(answer["results"])), answer
    assert as_explained(explained(daemon, "--mode", "reranking"))


def test_a_model_can_be_its_own_draft(daemon: Daemon) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    absent = daemon.cli("configure", "--speculative-draft-model", "ai/absent", "dmr/demo", check=False)
    assert (absent.returncode, absent.stdout) == (1, b"")
    assert (
        b"failed to get draft model: 'ai/absent' is not in the store; run `dmr pull ai/absent` first" in absent.stderr
    )

    flags = ("--speculative-num-tokens", "4", "--speculative-min-acceptance-rate", "0.5")
    daemon.cli("configure", "--speculative-draft-model", "dmr/demo", *flags, "dmr/demo")
    assert chat(daemon) == ANSWER
    found = explained(daemon)
    assert as_explained(found)
    words = found["argv"]
    assert words[words.index("--model-draft") + 1] == words[words.index("--model") + 1]
    said = values(found)
    assert said["speculative.draft_model"] == ("dmr/demo", "configuration")
    assert said["speculative.num_tokens"] == ("4", "configuration")
    assert said["speculative.min_acceptance_rate"] == ("0.50", "configuration")


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (0.5, False)])
def test_adapters_of_a_model_are_loaded_with_it(daemon: Daemon, weight: float, same: bool) -> None:
    asyncio.run(_add_with_adapter(Path(daemon.environment["MODELS_PATH"]), lora_adapter(weight)))
    daemon.start()
    assert (chat(daemon, "team/adapted") == ANSWER) is same
    found = json.loads(daemon.cli("configure", "show", "--explain", "--json", "team/adapted").stdout)
    assert as_explained(found)
    path, source = values(found)["lora"]
    assert (Path(path).name, source) == ("00001.gguf", "artifact")


async def _add_with_adapter(root: Path, adapter: bytes) -> None:
    store = await FilesystemModelStore.open(root)
    weights = WEIGHTS.read_bytes()
    layers = [layer_of(weights), layer_of(adapter, LayerType.LORA)]
    for data in (weights, adapter):
        await put_blob(store, data)
    model = await store.add(build_artifact(layers, ModelConfig(format="gguf")))
    await store.tag(model.id, parse_reference("team/adapted", ReferencePolicy()))


def test_what_is_refused_names_what_it_is(daemon: Daemon) -> None:
    daemon.start()
    missing = daemon.cli("configure", "--context-size", "64", "ai/absent", check=False)
    assert missing.returncode == 3
    daemon.cli("pull", "dmr/demo")
    for arguments, words in (
        (["dmr/demo", "--", "--log-file", "/tmp/x"], 'runtime flag "--log-file" is not allowed'),
        (["--keep-alive", "soon", "dmr/demo"], "invalid keep_alive duration 'soon'"),
        (["--hf_overrides", '{"a": 1}', "dmr/demo"], "'vllm'"),
    ):
        refused = daemon.cli("configure", *arguments, check=False)
        assert (refused.returncode, refused.stdout, words in refused.stderr.decode()) == (1, b"", True), refused
    status, text = ask(daemon, "POST", "/engines/vllm/_configure", {"model": "dmr/demo"})
    assert (status, "vllm" in text) == (422, True)
    assert json.loads(daemon.cli("configure", "show").stdout) == []


@pytest.mark.docker_cli
@pytest.mark.parametrize("command", ["configure", "config"])
def test_docker_model_configures(daemon: Daemon, tmp_path: Path, command: str) -> None:
    docker = shutil.which("docker")
    require("docker_cli", available=docker is not None, reason="docker is not on PATH")
    plugins = tmp_path / "docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-model").symlink_to(Path(sys.executable).parent / "model-cli")
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    environment = {**daemon.environment, "DOCKER_CONFIG": str(tmp_path / "docker"), "MODEL_RUNNER_HOST": daemon.url}

    def run(*words: str) -> str:
        done = subprocess.run(
            ["docker", "model", command, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("--context-size", "256", "--think=false", "--keep-alive", "-1", "dmr/demo", "--", "--top-k", "7") == ""
    (entry,) = json.loads(run("show", "dmr/demo"))
    assert (entry["Backend"], entry["Mode"]) == ("llama.cpp", "completion")
    assert entry["Config"] == {
        "context-size": 256,
        "keep_alive": "-1",
        "llamacpp": {"reasoning-budget": 0},
        "runtime-flags": ["--top-k", "7"],
    }
    assert "are forgotten" in run("reset", "dmr/demo")
    assert json.loads(run("show")) == []
