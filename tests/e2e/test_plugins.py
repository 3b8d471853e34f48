"""Third parties' plugins, installed beside the service: one that works, and every kind that does not."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.e2e.conftest import START_LIMIT, Daemon, daemon_environment

PLUGINS = Path(__file__).parents[1] / "plugins"
MESSAGES = [{"role": "user", "content": "first"}, {"role": "user", "content": "Grüße from the last message"}]


@attrs.define
class SocketDaemon(Daemon):
    """A daemon on a unix socket."""

    @property
    def path(self) -> Path:
        return self.root / "dmr.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dmr_cli", "serve", "--socket", str(self.path), *arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        deadline = time.monotonic() + START_LIMIT
        while self.cli("status", check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the service did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def chat(self, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Post to a chat completions route: status and decoded answer."""
        connection = UnixConnection(self.path)
        try:
            connection.request("POST", route, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def install(source: Path, site: Path) -> None:
    """Lay out a distribution as an installer does: its package, its metadata and its entry points.

    Installing with pip as well would need the build backend from a package index; that is done in
    ``test_wheels.py``.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    package = project["name"].replace("-", "_")
    shutil.copytree(source / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "INSTALLER").write_text("hand\n")
    points = project["entry-points"]
    lines = [line for group in points for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points[group].items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketDaemon]:
    """A service with both distributions installed, and the demo model in its store."""
    root = tmp_path_factory.mktemp("plugins")
    site = root / "site"
    site.mkdir()
    for name in ("echo", "broken"):
        install(PLUGINS / name, site)
    environment = daemon_environment(root)
    search = [str(site), *([environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else [])]
    daemon = SocketDaemon(root, {**environment, "PYTHONPATH": ":".join(search)})
    try:
        daemon.start()
        daemon.cli("pull", "dmr/demo")
        yield daemon
    finally:
        daemon.stop()
    assert daemon.engines() == []


@pytest.fixture(scope="module")
def listed(service: SocketDaemon) -> dict[str, dict[str, Any]]:
    """What ``dmr plugins --json`` says, by plugin."""
    plugins = json.loads(service.cli("plugins", "--json").stdout)["plugins"]
    assert len({entry["name"] for entry in plugins}) == len(plugins)
    return {entry["name"]: entry for entry in plugins}


def test_a_third_partys_engine_answers_a_chat(service: SocketDaemon) -> None:
    status, answer = service.chat("/engines/echo/v1/chat/completions", {"model": "dmr/demo", "messages": MESSAGES})

    assert (200, "dmr/demo") == (status, answer["model"])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Grüße from the last message"}
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_answers_of_a_third_partys_engine_carry_the_name_that_was_asked_for(service: SocketDaemon) -> None:
    for name in ("dmr/demo", "docker.io/dmr/demo:latest", "dmr/demo:latest"):
        _, answer = service.chat("/engines/echo/v1/chat/completions", {"model": name, "messages": MESSAGES})
        assert name == answer["model"]


def test_llama_cpp_still_answers_beside_it(service: SocketDaemon) -> None:
    body = {"model": "dmr/demo", "messages": [{"role": "user", "content": "Count to five."}]}
    for route in ("/v1/chat/completions", "/engines/llama.cpp/v1/chat/completions"):
        status, answer = service.chat(route, body)
        assert (200, "1, 2, 3, 4, 5.") == (status, answer["choices"][0]["message"]["content"])


def test_the_engine_appears_wherever_engines_do(service: SocketDaemon, listed: dict[str, dict[str, Any]]) -> None:
    service.chat("/engines/echo/v1/chat/completions", {"model": "dmr/demo", "messages": MESSAGES})

    assert listed["echo"] == {
        "name": "echo",
        "distribution": "dmr-backend-echo",
        "version": "1.0",
        "state": "ok",
        "provides": ["echo"],
        "error": "",
    }
    assert b"echo 1.0" in service.cli("status").stdout
    assert "echo" in [entry["backend_name"] for entry in json.loads(service.cli("ps", "--json").stdout)]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("broken-import", "ModuleNotFoundError: No module named 'dmr_no_such_module_anywhere'"),
        ("broken-exit", "called sys.exit(3)"),
        ("broken-hook", "unknown hook 'dmr_no_such_hook'"),
        ("zz-broken-name", "the name 'llama.cpp' is already taken by plugin 'llamacpp'"),
        ("broken-generator", "RuntimeError: half-way through"),
        ("broken-factory", "factory: ValueError: no such device"),
        ("broken-detector", "tpu: called sys.exit(5)"),
    ],
)
def test_whatever_a_plugin_does_wrong_is_one_line(listed: dict[str, dict[str, Any]], name: str, error: str) -> None:
    told = listed[name]["error"]

    assert told.startswith(error)
    assert "\n" not in told
    assert listed[name] == {
        "name": name,
        "distribution": "dmr-backend-broken",
        "version": "0.1",
        "state": "error",
        "provides": [],
        "error": told,
    }


def test_no_other_plugin_suffers(listed: dict[str, dict[str, Any]]) -> None:
    broken = {name for name, entry in listed.items() if entry["state"] != "ok"}

    assert broken == {name for name in listed if "broken" in name} - {"broken-status"}
    assert {"llamacpp": ["llama.cpp"], "vllm": ["vllm"], "gpu-cpu": ["cpu"]}.items() <= {
        name: entry["provides"] for name, entry in listed.items()
    }.items()


def test_an_engine_that_leaves_when_it_is_asked_how_it_is_has_an_error(service: SocketDaemon) -> None:
    (line,) = [line for line in service.cli("status").stdout.decode().splitlines() if line.startswith("leaving ")]

    assert line.split()[1:] == ["Error", "SystemExit:", "6"]


def test_the_table_has_one_line_per_plugin(service: SocketDaemon, listed: dict[str, dict[str, Any]]) -> None:
    table = service.cli("plugins").stdout.decode().partition("\n\n")[0].splitlines()

    assert ["NAME", *listed] == [line.split()[0] for line in table]


def test_what_no_plugin_could_register_is_no_backend(service: SocketDaemon) -> None:
    for name in ("half", "factory"):
        status, answer = service.chat(f"/engines/{name}/v1/chat/completions", {"model": "dmr/demo", "messages": []})
        assert (404, "backend_not_found") == (status, answer["error"]["code"])
