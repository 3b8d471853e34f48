"""NIMs on a real Docker Engine, from a real registry that wants a login: pulled, started, talked to, reused, removed."""

from __future__ import annotations

import base64
import json
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_readme import ROOT, blocks, matches
from tests.stand_ins.docker_daemon import NVCR_ADDRESS
from tests.stand_ins.nim_hub import KEY, PASSWORD, USER, NimHub, nim_hub
from tests.stand_ins.nim_images import nim_image
from tests.stand_ins.oci_registry import docker_registry

pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.timeout(600)]

Hub = NimHub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with nim_hub() as made:
        yield made


@pytest.fixture
def nim(hub: Hub, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on the hub's Docker Engine, which has no image of a NIM and no container yet, and whose user is logged in."""
    hub.clear()
    made = Daemon(tmp_path, daemon_environment(tmp_path))
    made.environment |= {"DOCKER_HOST": hub.docker.host, "DMR_NIM_PREFIX": hub.prefix}
    log_in(made, hub, USER, PASSWORD)
    try:
        yield made
    finally:
        made.stop()
        hub.clear()


def log_in(daemon: Daemon, hub: Hub, user: str, password: str) -> None:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    directory = Path(daemon.environment["HOME"]) / ".docker"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"auths": {hub.registry: {"auth": auth}}}))


def ours(hub: Hub, *, running: bool = False) -> list[dict[str, Any]]:
    return hub.docker.containers(running=running)


def output(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stdout.decode()


def test_a_nim_is_pulled_with_a_login_started_asked_reused_unloaded_and_removed(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()

    pulled = nim.cli("pull", model)
    assert "Downloading" in pulled.stderr.decode() or "Downloaded" in pulled.stderr.decode()
    assert "Model pulled successfully" in output(pulled)
    assert "no NVIDIA GPU was found" in pulled.stderr.decode()
    assert model in hub.docker.tags()
    listed = json.loads(output(nim.cli("list", "--json")))
    assert [one["tags"] for one in listed] == [[model]]
    assert json.loads(output(nim.cli("inspect", model)))["config"]["format"] == "nim"
    assert ours(hub) == []

    nim.environment["NGC_API_KEY"] = KEY
    assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
    (running,) = json.loads(output(nim.cli("ps", "--json")))
    assert (running["backend_name"], running["endpoint"]) == ("nim", "127.0.0.1:8000")
    assert "127.0.0.1:8000" in output(nim.cli("ps"))
    (container,) = ours(hub, running=True)
    seen = hub.docker.inspect(container["Id"])
    assert seen["HostConfig"]["ShmSize"] == 16 * 1024**3
    assert not seen["HostConfig"]["DeviceRequests"]
    assert seen["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}
    assert seen["Config"]["Labels"]["dmr.role"] == "nim"
    assert f"NGC_API_KEY={KEY}" in seen["Config"]["Env"]
    cache = Path(nim.environment["HOME"]) / ".cache" / "nim" / "weights"
    assert cache.read_text() == "stand-in/model\n"
    assert "ready to serve" in output(nim.cli("logs"))

    nim.stop()
    nim.environment.pop("NGC_API_KEY")
    nim.start()
    while not json.loads(output(nim.cli("ps", "--json"))):  # it is taken back by itself
        pass
    assert "You said: again" in output(nim.cli("run", model, "again"))
    assert [one["Id"] for one in ours(hub, running=True)] == [container["Id"]]
    assert cache.read_text() == "stand-in/model\n"  # it was not started again

    nim.cli("unload", model)
    assert json.loads(output(nim.cli("ps", "--json"))) == []
    assert (ours(hub, running=True), [one["Id"] for one in ours(hub)]) == ([], [container["Id"]])

    nim.cli("run", "--detach", model)
    assert [one["Id"] for one in ours(hub, running=True)] == [container["Id"]]
    nim.cli("rm", model)
    assert ours(hub) == []
    assert model not in hub.docker.tags()
    assert json.loads(output(nim.cli("list", "--json"))) == []


def test_the_key_is_in_no_file_or_log_of_ours_and_in_docker_only_where_the_container_reads_it(
    nim: Daemon, hub: Hub, tmp_path: Path
) -> None:
    model = hub.name("stand-in/locked:latest")
    nim.environment["NGC_API_KEY"] = KEY
    nim.environment["LOG_LEVEL"] = "debug"
    nim.start()

    nim.cli("run", model, "Hello")
    (container,) = ours(hub, running=True)
    assert "using key ***" in output(nim.cli("logs"))  # it was printed, and hidden
    shown = b"".join(
        nim.cli(*words).stdout
        for words in (
            ["ps", "--json"],
            ["status"],
            ["requests"],
            ["why", model],
            ["inspect", model],
            ["logs"],
            ["plugins"],
        )
    )
    seen = hub.docker.inspect(container["Id"])
    assert seen["Config"]["Env"].count(f"NGC_API_KEY={KEY}") == 1
    seen["Config"]["Env"].remove(f"NGC_API_KEY={KEY}")

    assert KEY not in json.dumps(seen)
    assert KEY.encode() not in shown
    assert PASSWORD.encode() not in shown
    nim.stop()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
            assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("key", ["a-wrong-key-of-some-length", None])
def test_a_wrong_key_is_told_with_what_to_do_and_the_right_one_works_at_once(
    nim: Daemon, hub: Hub, key: str | None
) -> None:
    model = hub.name("stand-in/locked:latest")
    if key:
        nim.environment["NGC_API_KEY"] = key
    nim.start()

    refused = nim.cli("run", model, "Hello", check=False)

    assert refused.returncode == 1
    said = refused.stderr.decode()
    assert "refused its NGC API key" in said
    assert "Set NGC_API_KEY" in said
    assert "401 Unauthorized" in said
    assert "using key ***" in said or key is None
    assert not key or key not in said
    assert ours(hub) == []

    nim.environment["NGC_API_KEY"] = KEY
    assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
    if key is None:
        assert "NGC_API_KEY is not set" in said


def test_a_pull_without_a_login_and_with_a_wrong_one_say_so(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    log_in(nim, hub, USER, "wrong-password")

    wrong = nim.cli("pull", model, check=False).stderr.decode()
    (Path(nim.environment["HOME"]) / ".docker" / "config.json").unlink()
    none = nim.cli("pull", model, check=False).stderr.decode()

    assert "the login that came with the request" in wrong
    assert "wrong-password" not in wrong
    assert f"docker login {hub.registry}" in none
    assert model not in hub.docker.tags()


def test_at_nvcr_io_a_key_is_a_login(hub: Hub, tmp_path: Path) -> None:
    """The registry is one of ours that nobody but the Docker Engine takes for NGC; it wants the user ``$oauthtoken``."""
    model = "nvcr.io/nim/stand-in/model:1.0"
    (tmp_path / "registry").mkdir()
    nim = Daemon(tmp_path, daemon_environment(tmp_path))
    nim.environment["DOCKER_HOST"] = hub.docker.host
    with (
        docker_registry(tmp_path / "registry", login=("$oauthtoken", KEY)) as registry,
        forwarded((NVCR_ADDRESS, 80), registry.host),
    ):
        nim_image(hub.docker, model)
        hub.docker.push(model, "$oauthtoken", KEY)
        hub.docker.call("DELETE", f"/images/{model}?force=1")
        nim.start()
        try:
            nim.environment["NGC_API_KEY"] = KEY
            assert "Model pulled successfully" in output(nim.cli("pull", model))
            nim.cli("rm", model)
            nim.environment["NGC_API_KEY"] = "another-key"
            refused = nim.cli("pull", model, check=False).stderr.decode()
            assert "the NGC_API_KEY that came with the request" in refused
            assert "another-key" not in refused
            del nim.environment["NGC_API_KEY"]
            assert (
                "set NGC_API_KEY, or run `docker login nvcr.io`" in nim.cli("pull", model, check=False).stderr.decode()
            )
        finally:
            nim.stop()


@contextmanager
def forwarded(address: tuple[str, int], host: str) -> Iterator[None]:
    """Connections to ``address`` reach ``host``."""
    target, _, port = host.partition(":")

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((target, int(port))) as onward:
                both = {self.request: onward, onward: self.request}
                while True:
                    for ready in select.select(list(both), [], [], 60)[0] or [None]:
                        data = ready.recv(65536) if ready is not None else b""
                        if not data:
                            return
                        both[ready].sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(address, Forward) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_name_the_registry_does_not_have_is_not_found(nim: Daemon, hub: Hub) -> None:
    nim.start()

    done = nim.cli("pull", hub.name("stand-in/nothing:1.0"), check=False)

    assert done.returncode == 3
    assert "not found" in done.stderr.decode()


def test_another_port_where_8000_is_taken(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 8000))
        taken.listen()

        assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
        (running,) = json.loads(output(nim.cli("ps", "--json")))
        assert running["endpoint"].startswith("127.0.0.1:")
        assert running["endpoint"] != "127.0.0.1:8000"
        assert len(ours(hub)) == 1


def test_a_crash_is_told_with_the_end_of_the_output_and_leaves_no_container(nim: Daemon, hub: Hub) -> None:
    nim.start()

    done = nim.cli("run", hub.name("stand-in/crash:latest"), "Hello", check=False)

    said = done.stderr.decode()
    assert (done.returncode, ours(hub)) == (1, [])
    assert "exited with status 3" in said
    assert "RuntimeError: the engine core failed to start" in said


def test_a_slow_start_is_followed_in_the_log_and_seen_in_ps(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/slow:latest")
    nim.start()
    nim.cli("pull", model)
    command = [sys.executable, "-m", "dmr_cli", "run", "--detach", model]
    with subprocess.Popen(
        command, env={**nim.environment, "MODEL_RUNNER_HOST": nim.url}, stderr=subprocess.PIPE
    ) as run:
        while "downloading weights" not in output(nim.cli("logs")):
            assert run.poll() is None
        assert "Loading" in output(nim.cli("ps"))
        _, said = run.communicate()
    assert run.returncode == 0, said
    assert b"its engine says:" in said
    assert b"  downloading weights: 80 %" in said
    assert "You said: there" in output(nim.cli("run", model, "there"))


def test_a_container_of_docker_model_run_is_adopted_and_removed_with_its_image(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    nim.cli("pull", model)
    cache = nim.root / "cache"
    cache.mkdir()
    adopted = hub.docker.create(
        "docker-model-nim-stand-in-model",
        {
            "Image": model,
            "ExposedPorts": {"8000/tcp": {}},
            "HostConfig": {
                "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]},
                "Binds": [f"{cache}:/opt/nim/.cache"],
            },
        },
    )

    assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
    assert [one["Id"] for one in ours(hub)] == [adopted]
    nim.cli("unload", model)
    assert (ours(hub, running=True), len(ours(hub))) == ([], 1)
    nim.cli("rm", model)
    assert ours(hub) == []


def test_docker_stopped_in_the_middle_is_an_error_and_the_next_request_works_once_it_is_back(
    nim: Daemon, hub: Hub
) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    nim.cli("run", "--detach", model)
    hub.docker.stop()
    try:
        failed = nim.cli("run", model, "Hello", check=False)
        assert failed.returncode == 1
        assert "Docker Engine" in failed.stderr.decode()
        pulled = nim.cli("pull", model, check=False)
        assert "start it" in pulled.stderr.decode()
        status = output(nim.cli("status"))
        assert "Docker Engine" in status
    finally:
        hub.docker.start()

    assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
    assert len(ours(hub)) == 1


def test_docker_stopped_in_the_middle_of_a_start_ends_the_start(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/slow:latest")
    nim.start()
    nim.cli("pull", model)
    command = [sys.executable, "-m", "dmr_cli", "run", "--detach", model]
    with subprocess.Popen(
        command, env={**nim.environment, "MODEL_RUNNER_HOST": nim.url}, stderr=subprocess.PIPE
    ) as run:
        while "downloading weights" not in output(nim.cli("logs")):
            assert run.poll() is None
        hub.docker.stop(signal.SIGTERM)
        try:
            _, said = run.communicate(timeout=60)
        finally:
            hub.docker.start()
    assert run.returncode == 1
    assert b"Docker Engine went away" in said or b"nim" in said


def test_nothing_but_images_under_the_prefix_is_started(nim: Daemon, hub: Hub) -> None:
    foreign = f"{hub.registry}/other/model:1.0"
    nim_image(hub.docker, foreign)
    nim.start()

    refused = nim.cli("run", "--detach", foreign, check=False)

    assert refused.returncode
    assert ours(hub) == []
    assert json.loads(output(nim.cli("list", "--json"))) == []


def test_a_nim_is_talked_to_line_by_line_until_bye(nim: Daemon, hub: Hub) -> None:
    nim.start()

    done = nim.cli("run", "--interactive", hub.name("stand-in/model:1.0"), stdin=b"Hello\n/bye\nnever\n")

    assert "You said: Hello" in output(done)
    assert "never" not in output(done)


def test_what_only_files_in_the_store_can_be_used_for_is_refused(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    nim.cli("pull", model)

    for words in (["tag", model, "mine:1"], ["push", model], ["export", model, "-o", str(nim.root / "out.tar")]):
        done = nim.cli(*words, check=False)
        assert done.returncode, words
        assert "keeps it" in done.stderr.decode(), words
    other = nim.cli("configure", "--speculative-draft-model", model, model, check=False)
    assert other.returncode


def test_two_names_of_one_image_go_one_after_the_other(nim: Daemon, hub: Hub) -> None:
    model, other = hub.name("stand-in/model:1.0"), hub.name("stand-in/model:latest")
    nim.start()
    nim.cli("pull", model)
    hub.docker.call("POST", f"/images/{model}/tag?repo={other.rpartition(':')[0]}&tag=latest")

    assert "Untagged" in output(nim.cli("rm", other))
    assert model in hub.docker.tags()
    assert "Deleted" in output(nim.cli("rm", model))


def test_the_last_word_of_a_service_may_be_to_stop_its_containers(nim: Daemon, hub: Hub) -> None:
    nim.environment["DMR_NIM_ON_EXIT"] = "stop"
    nim.start()
    nim.cli("run", "--detach", hub.name("stand-in/model:1.0"))
    assert len(ours(hub, running=True)) == 1

    nim.stop()

    assert (len(ours(hub)), ours(hub, running=True)) == (1, [])


def test_a_daemon_that_was_killed_finds_its_container_again(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    nim.start()
    nim.cli("run", "--detach", model)
    (before,) = ours(hub, running=True)

    nim.stop(signal.SIGKILL)
    nim.start()

    assert "You said: Hello" in output(nim.cli("run", model, "Hello"))
    assert [one["Id"] for one in ours(hub)] == [before["Id"]]


def test_the_key_is_not_sent_over_plain_tcp_to_another_host(nim: Daemon, hub: Hub) -> None:
    address = _own_address()
    environment = {**nim.environment, "NGC_API_KEY": KEY}
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        for words in (["pull"], ["run", "--detach"]):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "dmr_cli",
                    "--host",
                    f"http://{address}:{port}",
                    *words,
                    hub.name("stand-in/model:1.0"),
                ],
                env=environment,
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 2, done.stderr
            assert b"NGC_API_KEY is not sent" in done.stderr
            assert KEY.encode() not in done.stderr + done.stdout
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def _own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found: str = probe.getsockname()[0]
        return found


def test_the_examples_of_the_document_are_as_they_are_written(nim: Daemon, hub: Hub) -> None:
    model = hub.name("stand-in/model:1.0")
    documented_name = "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.0"
    nim.start()
    environment = {
        **nim.environment,
        "PATH": f"{Path(sys.executable).parent}:{nim.environment['PATH']}",
        "MODEL_RUNNER_HOST": nim.url,
    }
    commands = blocks((ROOT / "docs" / "nim.md").read_text())
    assert len(commands) == 7
    for command, documented in commands:
        words = ["bash", "-c", command.replace(documented_name, model)]
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        shown = documented.replace(documented_name, model).replace("llama-3.1-8b-instruct", "stand-in/model")
        assert matches(shown, done.stdout), f"$ {command}\n{done.stdout}"
