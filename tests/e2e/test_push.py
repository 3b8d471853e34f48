"""Pushing with the real parts: what a registry is asked, and what is told when the service ends in the middle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon
from tests.stand_ins.oci_registry import docker_registry

GGUF = Path(str(resources.files("dmr_cli.demo"))) / "model" / "demo.gguf"


@pytest.mark.registry
def test_a_second_push_sends_nothing_and_a_second_name_is_mounted(daemon: Daemon, tmp_path: Path) -> None:
    require("registry", available=shutil.which("docker-registry") is not None, reason="docker-registry is not on PATH")
    root = tmp_path / "registry"
    root.mkdir()
    with docker_registry(root) as running:
        daemon.start()
        first, second = f"{running.host}/team/tiny:v1", f"{running.host}/other/tiny:v2"
        daemon.cli("package", first, "--gguf", str(GGUF), "--push")
        again = daemon.cli("push", "--json", first)
        daemon.cli("tag", first, second)
        before = (root / "log").read_text()
        assert daemon.cli("push", second).stdout == b"Model pushed successfully\n"
        asked = (root / "log").read_text()[len(before) :]
        daemon.cli("rm", first)
        daemon.cli("rm", second)
        daemon.cli("pull", second)
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert [line["message"].split(":")[0] for line in lines[:-1]] == ["Already exists"] * (len(lines) - 1)
    assert "mount=sha256" in asked
    assert '"PATCH ' not in asked
    assert '"PUT /v2/other/tiny/blobs' not in asked


class _Hanging(BaseHTTPRequestHandler):
    """A registry that takes an upload and never says that it has it."""

    reached = threading.Event()
    over = threading.Event()

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_POST(self) -> None:
        self._answer(202, Location="/v2/x/blobs/uploads/1")

    def do_PUT(self) -> None:
        self.reached.set()
        self.over.wait(60)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def _hanging() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hanging)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        _Hanging.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_push_that_the_end_of_the_service_cuts_short_says_so(daemon: Daemon) -> None:
    with _hanging() as host:
        daemon.start()
        name = f"{host}/team/tiny:v1"
        daemon.cli("package", name, "--gguf", str(GGUF))
        client = subprocess.Popen(
            [sys.executable, "-m", "dmr_cli", "push", name],
            env={**daemon.environment, "MODEL_RUNNER_HOST": daemon.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if not _Hanging.reached.wait(20):
            client.kill()
            pytest.fail(f"nothing is uploaded: {client.communicate()}")
        assert daemon.stop() == 0
        output, errors = client.communicate(timeout=20)
    assert client.returncode != 0
    assert b"shutting down" in errors
    assert output == b""
