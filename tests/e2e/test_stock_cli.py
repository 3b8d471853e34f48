"""Every call the stock CLI makes is accepted by a real service with a real engine, and so is every answer by the CLI.

Push, remote inspection and the many names of models are looked at in ``distribution``.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.stand_ins import stock_cli
from tests.stand_ins.stock_options import COMMANDS

MODEL = "dmr/demo"
TAG = "docker.io/dmr/demo:latest"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("stock")
    daemon = Daemon(root, daemon_environment(root) | {"MODEL_RUNNER_LOG_DIR": str(root / "logs")})
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


def test_every_call_is_answered_as_the_cli_needs_it(served: Daemon) -> None:
    """One after the other, as somebody would type them."""
    used = set()

    def run(*arguments: str, fails: bool = False) -> str:
        used.add(arguments[0])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = stock_cli.main(arguments, {"MODEL_RUNNER_HOST": served.url, "STOCK_CLI_RETRY_SCALE": "0"})
        assert bool(code) == fails, f"{arguments}: {out.getvalue()}{err.getvalue()}\n{served.log.read_text()[-2000:]}"
        return out.getvalue() + err.getvalue()

    _models(run)
    _answers(run)
    _settings(run)
    _end(run)
    assert set(COMMANDS) - used == {"push"}


def _models(run: Run) -> None:
    assert "Docker Model Runner is running" in run("status")
    assert "Version" in run("version")
    assert "Model pulled successfully" in run("pull", MODEL)
    assert "demo" in run("ls")
    identifier = json.loads(run("ls", "--json"))[0]["id"]
    assert identifier[7:19] in run("ls", "-q")
    assert TAG == json.loads(run("ls", "--openai"))["data"][0]["id"]
    assert MODEL == json.loads(run("inspect", MODEL, "--openai"))["id"]
    assert identifier == json.loads(run("inspect", MODEL))["id"]
    assert identifier in run("show", MODEL)
    assert "not found" in run("inspect", "nope", fails=True)
    assert "tagged successfully" in run("tag", MODEL, "dmr/other:v1")
    assert "created successfully" in run("package", "--from", MODEL, "--context-size", "512", "dmr/small")


def _answers(run: Run) -> None:
    assert "Hello! How can I help you today?" in run("run", MODEL, "Hello!")
    run("run", "-d", MODEL)
    assert "tokens" in run("bench", MODEL)
    assert "llama.cpp  completion" in run("ps")
    run("df")
    (entry,) = map(json.loads, run("requests").splitlines())
    assert entry["count"] == len(entry["records"]) == 2  # to load a model is no request
    assert "Hello!" in run("requests", "--model", MODEL, "--follow")
    assert "llama" in run("logs")
    assert "nope" in run("run", "nope", "x", fails=True)


def _settings(run: Run) -> None:
    run("unload", "--all")
    run("configure", "set", MODEL, "--context-size", "256", "--keep-alive", "10m", "--flags=--temp 0.5")
    (entry,) = json.loads(run("configure", "show", MODEL))
    assert (TAG, 256, "10m0s") == (entry["Model"], entry["Config"]["context-size"], entry["Config"]["keep_alive"])
    assert "(400)" in run("configure", "set", MODEL, "--flags=--no-such-flag", fails=True)
    run("compose", "up", "--model", TAG, "--context-size", "256")
    run("install-runner", "--backend", "llama.cpp")
    run("uninstall-runner", "--backend", "llama.cpp", fails=True)


def _end(run: Run) -> None:
    run("unload", MODEL)
    assert "Untagged" in run("rm", "dmr/other:v1")
    run("unload", "--all")
    run("purge", "-f")
    assert json.loads(run("ls", "--json")) == []
