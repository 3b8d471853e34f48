"""Choosing the wrong engine, version or model: each is told with its own status, code and next step."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import Daemon

DEMO: Final = Path(str(resources.files("dmr_cli.demo")))
SAFETENSORS: Final = "dmr/demo:safetensors"


def refused(daemon: Daemon, model: str, path: str = "/v1/chat/completions") -> tuple[int, str, str]:
    """Status, code and text of the answer to a chat."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(daemon.url + path, body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    error: dict[str, Any] = json.loads(caught.value.read())["error"]
    return caught.value.code, error["code"], error["message"]


def stand_in_vllm(root: Path, version: str) -> Path:
    """A ``vllm`` of a version that notes how it is started, and fails."""
    program = root / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {root}/arguments\necho "cannot go on" >&2\nexit 3\n')
    program.chmod(0o755)
    (root / "lib" / "python3.11" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
    return program


def model_with_code(daemon: Daemon) -> str:
    """The ID of the demo model with a config that names code of its own."""
    directory = daemon.root / "odd"
    shutil.copytree(DEMO / "model" / "safetensors", directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "odd.Config"}}))
    daemon.cli("package", "--safetensors-dir", str(directory), "odd")
    identifier: str = json.loads(daemon.cli("inspect", "odd").stdout)["id"]
    return identifier


def test_a_model_for_vllm_without_vllm(daemon: Daemon) -> None:
    daemon.environment["VLLM_SERVER_PATH"] = "/nowhere/vllm"
    daemon.start()
    daemon.cli("pull", SAFETENSORS)
    status, code, text = refused(daemon, SAFETENSORS)
    assert (status, code) == (412, "backend_not_installed")
    assert "VLLM_SERVER_PATH" in text


def test_a_vllm_that_is_too_old(daemon: Daemon, tmp_path: Path) -> None:
    daemon.environment["VLLM_SERVER_PATH"] = str(stand_in_vllm(tmp_path / "venv", "0.8.5"))
    daemon.start()
    daemon.cli("pull", SAFETENSORS)
    status, code, text = refused(daemon, SAFETENSORS)
    assert (status, code) == (412, "engine_version")
    assert "vLLM 0.8.5" in text
    assert "0.10 or newer" in text
    assert "too old" in daemon.cli("status").stdout.decode()
    assert not (tmp_path / "venv" / "arguments").exists()


def test_gguf_asked_of_vllm(daemon: Daemon, tmp_path: Path) -> None:
    daemon.environment["VLLM_SERVER_PATH"] = str(stand_in_vllm(tmp_path / "venv", "0.32.0"))
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    status, code, text = refused(daemon, "dmr/demo", "/engines/vllm/v1/chat/completions")
    assert (status, code) == (422, "unsupported_format")
    assert "vllm" in text
    assert not (tmp_path / "venv" / "arguments").exists()


def test_a_gpu_required_where_there_is_none(daemon: Daemon) -> None:
    daemon.environment["DMR_OVERRIDE_GPU"] = "cpu"
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    daemon.cli("configure", "--require", "gpu", "dmr/demo")
    status, code, text = refused(daemon, "dmr/demo")
    assert (status, code) == (412, "accelerator_missing")
    assert "--require none" in text


def test_a_model_that_brings_code_runs_only_where_its_id_was_allowed(daemon: Daemon, tmp_path: Path) -> None:
    started = tmp_path / "venv" / "arguments"
    daemon.environment["VLLM_SERVER_PATH"] = str(stand_in_vllm(tmp_path / "venv", "0.32.0"))
    daemon.start()
    identifier = model_with_code(daemon)
    status, code, text = refused(daemon, "odd")
    assert (status, code) == (403, "model_code_refused")
    assert "config.json names code (auto_map)" in text
    assert f"DMR_TRUST_CODE={identifier}" in text
    assert not started.exists()
    assert f"DMR_TRUST_CODE={identifier}" in daemon.cli("run", "odd", "Hello", check=False).stderr.decode()

    daemon.stop()
    daemon.environment["DMR_TRUST_CODE"] = identifier
    daemon.start()
    status, code, text = refused(daemon, "odd")
    assert (status, code) == (502, "engine_exited")
    assert "cannot go on" in text
    assert "--trust-remote-code" in started.read_text().splitlines()
