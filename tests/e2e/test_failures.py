"""What goes wrong in the real world, each with its own status and text, and what works afterwards."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.e2e.conftest import Daemon, gone, processes_holding
from tests.e2e.test_main_job import DEMO
from tests.stand_ins.oci_registry import docker_registry
from tests.stand_ins.standin_install import install_standin, reconfigure_standin

GGUF = DEMO / "model" / "demo.gguf"


@pytest.fixture
def engine(daemon: Daemon) -> Path:
    """The stand-in engine, as the daemon's ``llama-server``; the daemon runs and has the demo model."""
    program = install_standin(daemon.root / "engine", starts=str(daemon.root / "starts"))
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    daemon.environment["DMR_MAX_RUNNERS"] = "1"
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    return program


def post(daemon: Daemon, path: str, body: Any, timeout: float = 30.0) -> tuple[int, str]:
    """Status and body of a POST, errors included."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(daemon.url + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def chat(daemon: Daemon, text: str, model: str = "dmr/demo") -> tuple[int, str]:
    """Status and body of a chat."""
    return post(daemon, "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}]})


def starts(daemon: Daemon) -> list[dict[str, Any]]:
    """The engine's own log of its starts."""
    path = daemon.root / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def serving_starts(daemon: Daemon) -> list[dict[str, Any]]:
    """Starts to serve a model; asking for the version does not count."""
    return [start for start in starts(daemon) if "--model" in start["argv"]]


def test_an_engine_killed_in_mid_answer_is_a_typed_error_within_a_second(daemon: Daemon, engine: Path) -> None:
    reconfigure_standin(engine, starts=str(daemon.root / "starts"), hang_after=3)
    body = {"model": "dmr/demo", "stream": True, "messages": [{"role": "user", "content": "a b c d e f g h"}]}
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as connection:
        content = json.dumps(body).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content)
            + content
        )
        received = b""
        while received.count(b"data: ") < 3:
            received += connection.recv(65536)
        os.kill(serving_starts(daemon)[-1]["pid"], signal.SIGKILL)
        killed = time.monotonic()
        while b'"error"' not in received or not received.endswith(b"0\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece, f"the connection was closed without a typed error: {received!r}"
            received += piece
        took = time.monotonic() - killed
    event = received.split(b"data: ")[-1].split(b"\n\n")[0]
    error = json.loads(event)["error"]
    assert took < 1.0
    assert (error["type"], error["code"]) == ("server_error", "engine_killed")
    assert "killed by signal 9" in error["message"]

    reconfigure_standin(engine, starts=str(daemon.root / "starts"))
    status, answer = chat(daemon, "still there?")
    assert status == 200
    assert "still there?" in answer
    assert len(serving_starts(daemon)) == 2


def test_a_stream_that_outlasts_the_service_ends_with_a_typed_error(daemon: Daemon, engine: Path) -> None:
    reconfigure_standin(engine, starts=str(daemon.root / "starts"), hang_after=2)
    body = {"model": "dmr/demo", "stream": True, "messages": [{"role": "user", "content": "a b c d e f g h"}]}
    content = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content)
            + content
        )
        received = b""
        while received.count(b"data: ") < 2:
            received += connection.recv(65536)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5.0
        while piece := connection.recv(65536):
            received += piece
    error = json.loads(received.split(b"data: ")[-1].split(b"\n\n")[0])["error"]
    assert error["type"] == "server_error"
    assert b"Traceback" not in daemon.log.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("grandchild", ["", "session"])
def test_no_engine_outlives_its_daemon(daemon: Daemon, engine: Path, number: int, grandchild: str) -> None:
    """However the daemon ends, nothing it started lives after the next one's start."""
    options = {"grandchild": grandchild or True, "ignore_sigterm": True} if grandchild else {"ignore_sigterm": True}
    daemon.environment["DMR_STOP_GRACE"] = "0.5"
    daemon.stop()
    daemon.start()
    reconfigure_standin(engine, starts=str(daemon.root / "starts"), **options)
    assert chat(daemon, "hi")[0] == 200
    left = daemon.engines() + processes_holding(str(engine.parent))
    assert left

    returncode = daemon.stop(number)
    assert returncode == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    daemon.start()
    assert gone(left), left
    assert chat(daemon, "hello again")[0] == 200


def test_sixteen_requests_to_a_cold_model_are_one_load(daemon: Daemon, engine: Path) -> None:
    reconfigure_standin(engine, starts=str(daemon.root / "starts"), load_delay=0.3)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: chat(daemon, f"n{number}"), range(16)))

    assert {200} == {status for status, _ in answers}
    assert all(f"n{number}" in text for number, (_, text) in enumerate(answers))
    assert len(serving_starts(daemon)) == 1


def test_two_models_alternate_under_a_one_slot_limit(daemon: Daemon, engine: Path) -> None:
    """Forty requests, one engine at a time, no failure."""
    daemon.cli("package", "other", "--gguf", str(GGUF), "--context-size", "64")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: chat(daemon, f"n{n}", ("dmr/demo", "other")[n % 2]), range(40)))

    assert [200] * 40 == [status for status, _ in answers]
    assert all(f"n{number}" in text for number, (_, text) in enumerate(answers))
    assert len(daemon.engines()) == 1
    assert len(serving_starts(daemon)) >= 2


def test_a_damaged_model_is_422_with_the_engines_own_words(daemon: Daemon) -> None:
    """A truncated GGUF: the real engine says what is wrong, and the client hears it."""
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    blob = max((daemon.root / "models" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.truncate(blob.stat().st_size // 2)
    status, text = chat(daemon, "hi")
    error = json.loads(text)["error"]

    assert (status, error["code"]) == (422, "model_corrupt")
    assert error["message"].startswith("unable to load runner: failed to load model: its file is cut off or damaged")
    assert "dmr pull" in error["message"]
    assert "Verbose output:" in error["message"]
    assert str(daemon.root) not in error["message"]


def test_a_truncated_gguf_is_not_packaged(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(GGUF.read_bytes()[:-1000])
    done = daemon.cli("package", "cut", "--gguf", str(cut), check=False)

    assert done.returncode == 1
    assert b"cut.gguf" in done.stderr
    assert json.loads(daemon.cli("list", "--json").stdout) == []


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    require("registry", available=shutil.which("docker-registry") is not None, reason="docker-registry is not on PATH")
    root = tmp_path / "registry"
    root.mkdir()
    with docker_registry(root) as running:
        yield running.host, root


@pytest.mark.registry
def test_bytes_that_do_not_match_their_digest_never_get_in(daemon: Daemon, registry: tuple[str, Path]) -> None:
    host, root = registry
    daemon.start()
    daemon.cli("package", f"{host}/x/y", "--gguf", str(GGUF), "--push")
    daemon.cli("rm", f"{host}/x/y")
    blob = max(root.rglob("blobs/sha256/*/*/data"), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.write_bytes(content)
    done = daemon.cli("pull", f"{host}/x/y", check=False)

    assert done.returncode == 1
    assert b"digest mismatch" in done.stderr
    assert done.stdout == b""
    assert json.loads(daemon.cli("list", "--json").stdout) == []


@pytest.mark.registry
@pytest.mark.root
def test_a_disk_that_fills_up_during_a_pull_is_told_and_nothing_is_lost(
    daemon: Daemon, registry: tuple[str, Path], tmp_path: Path
) -> None:
    """On a file system of 1 MiB the model does not fit; on the same store, grown, it does."""
    host, _ = registry
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True, check=False
    )
    require("root", available=mounted.returncode == 0, reason="a file system cannot be mounted here")
    try:
        daemon.start()
        daemon.cli("package", f"{host}/x/y", "--gguf", str(GGUF), "--push")
        daemon.stop()
        daemon.environment["MODELS_PATH"] = str(mount / "models")
        daemon.start()
        done = daemon.cli("pull", f"{host}/x/y", check=False)
        assert done.returncode == 1
        assert b"bytes" in done.stderr
        assert json.loads(daemon.cli("list", "--json").stdout) == []
        assert post(daemon, "/models/create", {"from": f"{host}/x/y"})[0] in (200, 507)

        subprocess.run(["mount", "-o", "remount,size=16m", mount], check=True)
        daemon.cli("pull", f"{host}/x/y")
        assert len(json.loads(daemon.cli("list", "--json").stdout)) == 1
    finally:
        daemon.stop()
        subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_registry_that_is_down_is_told_quickly(daemon: Daemon) -> None:
    daemon.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{probe.getsockname()[1]}"
    began = time.monotonic()
    status, text = post(daemon, "/models/create", {"from": f"{closed}/x/y"})
    done = daemon.cli("pull", f"{closed}/x/y", check=False)

    assert status == 502
    assert closed in text
    assert done.returncode == 1
    assert closed.encode() in done.stderr
    assert time.monotonic() - began < 10.0


def test_a_port_in_use_is_told_at_once(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = daemon.cli("serve", "--port", str(port), check=False)

    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"Error: port {port} on 127.0.0.1 is in use: is dmr running already? Stop it, or choose another with --port\n"
    )


def test_a_store_that_cannot_be_written_is_told_at_once(daemon: Daemon) -> None:
    daemon.environment["MODELS_PATH"] = "/proc/models"
    done = daemon.cli("serve", "--port", "0", check=False)

    assert done.returncode == 1
    assert b"/proc/models" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_second_daemon_on_one_socket_is_refused(daemon: Daemon) -> None:
    path = daemon.root / "dmr.sock"
    daemon.start()
    first = subprocess.Popen(
        [sys.executable, "-m", "dmr_cli", "serve", "--socket", str(path)],
        env=daemon.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        second = daemon.cli("serve", "--socket", str(path), check=False)
        assert second.returncode == 1
        assert b"is in use" in second.stderr
        assert first.poll() is None
    finally:
        first.terminate()
        first.wait(20)
    assert not path.exists()


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/chat/completions", {"model": "nope"}, 404, "model not found"),
        ("/v1/chat/completions", b'{"model": ', 400, "invalid request"),
        ("/v1/chat/completions", {"model": ["x"]}, 400, "invalid request"),
        ("/engines/nope/v1/chat/completions", {"model": "dmr/demo"}, 404, "backend not found"),
        ("/v1/chat/completions", b"x" * (11 * 1024 * 1024), 413, "request too large"),
    ],
)
def test_bad_requests_over_a_real_socket(daemon: Daemon, path: str, body: Any, status: int, text: str) -> None:
    """Each its own status and text; an oversize body is answered, not left hanging."""
    daemon.start()
    answered, content = post(daemon, path, body)

    assert status == answered
    assert text in json.loads(content)["error"]["message"]


@pytest.mark.parametrize("header", ["Origin: http://evil.example", "Host: rebound.example", "X-Nothing: 1"])
def test_a_refused_request_with_many_small_chunks_is_answered_and_closed(daemon: Daemon, header: str) -> None:
    """Hypercorn queues ten parts of a body and would wait for ever for somebody to read the eleventh."""
    daemon.start()
    host = "" if header.startswith("Host") else "Host: localhost\r\n"
    head = f"POST /nowhere HTTP/1.1\r\n{host}{header}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as connection:
            connection.sendall(head + b"1\r\nx\r\n" * 40 + b"0\r\n\r\n")
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert received.split(b" ")[1] in (b"403", b"404")
            assert b"connection: close" in received.lower()
    assert daemon.stop() == 0
