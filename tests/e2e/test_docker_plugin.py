"""``docker model`` as the real docker command runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon
from tests.e2e.test_main_job import QUESTIONS


@pytest.mark.docker_cli
def test_docker_model_is_this_dmr(daemon: Daemon, tmp_path: Path) -> None:
    """Linked as ``make install`` links it: listed, asked, and its exit codes passed on."""
    docker = shutil.which("docker")
    require("docker_cli", available=docker is not None, reason="docker is not on PATH")
    plugins = tmp_path / "docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-model").symlink_to(Path(sys.executable).parent / "model-cli")
    daemon.start()
    environment = {
        **daemon.environment,
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "MODEL_RUNNER_HOST": daemon.url,
        "PYTHONWARNINGS": "default",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    about = run("model", "version", "--json")
    assert about.returncode == 0, about.stderr
    assert run("model", "pull", "dmr/demo").stdout == "Model pulled successfully\n"
    assert run("model", "run", "dmr/demo", QUESTIONS[0]["question"]).stdout.strip() == QUESTIONS[0]["answer"]
    (model,) = json.loads(run("model", "list", "--json").stdout)
    assert model["tags"] == ["docker.io/dmr/demo:latest"]
    assert "Ask a model" in run("model", "--help").stdout
    assert run("model", "inspect", "nope").returncode == 3
    assert "dmr, a model runner" in run("--help").stdout
