"""The main job with the real parts: registry, llama.cpp engine, client."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon
from tests.stand_ins.oci_registry import docker_registry

DEMO = Path(str(resources.files("dmr_cli.demo")))
QUESTIONS = json.loads((DEMO / "questions.json").read_text())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    require("registry", available=shutil.which("docker-registry") is not None, reason="docker-registry is not on PATH")
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as running:
        yield running.host


@pytest.mark.registry
@pytest.mark.parametrize(
    "source",
    [["--gguf", str(DEMO / "model" / "demo.gguf")], ["--gguf", str(DEMO / "model" / "demo.gguf"), "--format", "cncf"]],
)
def test_package_push_remove_pull_and_run_give_the_same_model(daemon: Daemon, registry: str, source: list[str]) -> None:
    """Nothing changes on the way through a registry: neither the answer nor the identity."""
    daemon.start()
    name = f"{registry}/team/tiny:v1"
    question, answer = QUESTIONS[4]["question"], QUESTIONS[4]["answer"]
    daemon.cli("package", name, *source, "--push")
    (packaged,) = json.loads(daemon.cli("list", "--json").stdout)
    first = daemon.cli("run", name, question).stdout.decode().strip()
    daemon.cli("unload", "--all")
    daemon.cli("rm", name)
    assert json.loads(daemon.cli("list", "--json").stdout) == []

    pulled = daemon.cli("pull", name)
    assert b"Model pulled successfully" in pulled.stdout
    (model,) = json.loads(daemon.cli("list", "--json").stdout)
    assert packaged["id"] == model["id"]
    assert daemon.cli("run", name, question).stdout.decode().strip() == first == answer

    require("skopeo", available=shutil.which("skopeo") is not None, reason="skopeo is not on PATH")
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"],
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout
    import hashlib

    assert model["id"] == "sha256:" + hashlib.sha256(raw).hexdigest()


def test_the_bundled_model_answers_as_documented(daemon: Daemon) -> None:
    daemon.start()
    for entry in QUESTIONS:
        assert entry["answer"] == daemon.cli("run", "dmr/demo", entry["question"]).stdout.decode().strip()


def test_results_go_to_stdout_and_nothing_else_does(daemon: Daemon) -> None:
    daemon.start()
    pulled = daemon.cli("pull", "dmr/demo")
    assert pulled.stdout == b"Model pulled successfully\n"
    listed = daemon.cli("list")
    assert listed.stderr == b""
    assert b"dmr/demo" in listed.stdout
    absent = daemon.cli("inspect", "no-such-model", check=False)
    assert (absent.returncode, absent.stdout) == (3, b"")
    assert absent.stderr == b"Error: no such model: no-such-model\n"


def test_the_seeds_programs_work(daemon: Daemon) -> None:
    """``MODEL_RUNNER_PORT=… model-runner`` and ``MODEL_RUNNER_HOST=… model-cli list | run``."""
    import sys

    programs = Path(sys.executable).parent
    daemon.start()
    environment = {**daemon.environment, "MODEL_RUNNER_HOST": daemon.url}
    daemon.cli("pull", "dmr/demo")
    listed = subprocess.run(
        [programs / "model-cli", "list"], env=environment, capture_output=True, timeout=30, check=True
    )
    assert b"dmr/demo" in listed.stdout
    asked = subprocess.run(
        [programs / "model-cli", "run", "dmr/demo", "Hello, how are you?"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert QUESTIONS[1]["answer"] == asked.stdout.decode().strip()
