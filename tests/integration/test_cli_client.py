"""The installed client as a process: imports, streams, signals, sockets, terminals."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.conftest import require
from tests.stand_ins.canned_server import Answer, CannedServer

CHAT = "/engines/v1/chat/completions"
PATIENCE = 20.0
DMR = (sys.executable, "-m", "dmr_cli")
# What a client command must never pay for.
HEAVY = {
    "aiohttp",
    "asyncio",
    "attr",
    "attrs",
    "cattrs",
    "concurrent.futures",
    "http.client",
    "hypercorn",
    "importlib.metadata",
    "pathlib",
    "pluggy",
    "rich",
    "ssl",
    "starlette",
    "subprocess",
    "urllib",
}


def environment(home: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODEL_RUNNER", "XDG_", "DMR_"))}
    return kept | {"HOME": str(home), "TERM": "dumb", "PYTHONWARNINGS": "error"} | extra


def event(content: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % content.encode()


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as canned:
        canned.on("GET", "/models", [{"id": "sha256:" + "0" * 64, "tags": ["docker.io/ai/m:latest"], "config": {}}])
        canned.on("GET", "/models/m", {"id": "sha256:0"})
        yield canned


def run(home: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DMR, *arguments],
        env=environment(home, **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["list"], ["ps"], ["status"], ["--help"]])
def test_a_client_command_imports_click_and_little_else(
    server: CannedServer, tmp_path: Path, arguments: list[str]
) -> None:
    server.on("GET", "/engines/ps", [])
    server.on("GET", "/engines/status", {})
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dmr_cli", *arguments],
        env=environment(tmp_path, MODEL_RUNNER_HOST=server.url),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    # Editable installs and coverage put their own finders before us; those belong to the environment.
    baseline = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "this"], capture_output=True, text=True, check=True
    ).stderr
    ours = imported - {line.rpartition("|")[2].strip() for line in baseline.splitlines()}

    assert "click" in ours
    assert {name for name in ours if name in HEAVY or name.partition(".")[0] in HEAVY} == set()
    assert not any(name.startswith(("dmr_adapters", "dmr_backends", "dmr_cli.server")) for name in ours)


def test_results_are_on_stdout_alone(server: CannedServer, tmp_path: Path) -> None:
    done = run(tmp_path, "list", "-q", MODEL_RUNNER_HOST=server.url)

    assert (done.returncode, done.stdout, done.stderr) == (0, "000000000000\n", "")


def test_a_unix_socket_is_a_host(tmp_path: Path) -> None:
    with CannedServer(tmp_path / "dmr.sock") as server:
        server.on("GET", "/version", {"version": "9.9"})
        done = run(tmp_path, "--host", server.url, "version")

    assert " Version:    9.9\n" in done.stdout


def test_an_answer_appears_while_it_is_made(server: CannedServer, tmp_path: Path) -> None:
    rest = threading.Event()
    server.on("POST", CHAT, Answer(chunks=[event("Hel"), rest, event("lo") + b"data: [DONE]\n\n"]))
    with subprocess.Popen(
        [*DMR, "--host", server.url, "run", "m", "q"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 100)
        rest.set()
        second = process.stdout.read()

    assert (first, second, process.returncode) == (b"Hel", b"lo\n", 0)


def test_ctrl_c_keeps_what_was_said_and_exits_130(server: CannedServer, tmp_path: Path) -> None:
    rest = threading.Event()
    server.on("POST", CHAT, Answer(chunks=[event("Half"), rest]))
    with subprocess.Popen(
        [*DMR, "--host", server.url, "run", "m", "q"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        rest.set()

    assert (first + out, err, process.returncode) == (b"Half\n", b"", 130)


def test_a_reader_that_leaves_early_causes_no_noise(server: CannedServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        done = subprocess.run(
            [*DMR, "--host", server.url, "list"],
            env=environment(tmp_path),
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, b"")


def test_a_silent_pipe_on_stdin_does_not_make_run_hang(server: CannedServer, tmp_path: Path) -> None:
    server.on("POST", CHAT, Answer(chunks=[event("hi") + b"data: [DONE]\n\n"]))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin:
        done = subprocess.run(
            [*DMR, "--host", server.url, "run", "m", "q"],
            env=environment(tmp_path),
            stdin=stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    os.close(write)

    assert (done.returncode, done.stdout) == (0, b"hi\n")


class Terminal:
    """A process on a pseudo-terminal; a context manager."""

    def __init__(self, arguments: list[str], env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*DMR, *arguments], env=dict(env), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until ``text`` comes.

        Python's line editing does not notice a signal between showing the prompt and waiting for keys.
        """
        for _ in range(int(PATIENCE)):
            self.process.send_signal(signal.SIGINT)
            try:
                self.expect(text, patience=1.0)
            except TimeoutError:
                continue
            return
        raise AssertionError(f"{text!r} did not come")

    def expect(self, text: str, patience: float = PATIENCE) -> str:
        """Read up to ``text``; what came before it."""
        while text not in self._seen:
            if not select.select([self._ours], [], [], patience)[0]:
                raise TimeoutError(f"{text!r} did not come after {self._seen!r}")
            try:
                self._seen += os.read(self._ours, 4096).decode()
            except OSError as gone:  # what Linux says when the other side has closed
                raise AssertionError(f"{text!r} did not come after {self._seen!r}") from gone
        before, _, self._seen = self._seen.partition(text)
        return before


def test_a_conversation_on_a_terminal(server: CannedServer, tmp_path: Path) -> None:
    rest = threading.Event()
    slow = Answer(chunks=[event("Wait"), rest])
    quick = Answer(chunks=[event("Hel\\u001b[31mlo") + b"data: [DONE]\n\n"])
    server.on("POST", CHAT, quick, slow, Answer(500, b"boom"), quick)
    env = environment(tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))

    with Terminal(["--host", server.url, "run", "m"], env) as terminal:
        terminal.expect("> ")
        terminal.type("hi there\r")
        terminal.expect("Hello")
        terminal.expect("> ")
        terminal.type("slowly\r")
        terminal.expect("Wait")
        terminal.process.send_signal(signal.SIGINT)
        terminal.expect("> ")
        terminal.type("fail\r")
        terminal.expect("Error: boom")
        terminal.expect("> ")
        terminal.interrupt("Use Ctrl-D or /bye to leave.")
        terminal.expect("> ")
        terminal.type('"""two\r')
        terminal.expect(". ")
        terminal.type('lines"""\r')
        terminal.expect("Hello")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0
    rest.set()

    said = [request.json["messages"] for request in server.requests if request.path == CHAT]
    assert [message["content"] for message in said[-1]] == ["hi there", "Hel\x1b[31mlo", "two\nlines"]
    history = tmp_path / "state" / "dmr" / "history"
    assert history.read_text().splitlines()[:2] == ["hi there", "slowly"]
    assert history.stat().st_mode & 0o777 == 0o600


def test_history_is_left_alone_when_told_so(server: CannedServer, tmp_path: Path) -> None:
    env = environment(tmp_path, DOCKER_MODEL_NOHISTORY="1")

    with Terminal(["--host", server.url, "run", "m"], env) as terminal:
        terminal.expect("> ")
        terminal.type("/bye\r")
        assert terminal.process.wait(PATIENCE) == 0

    assert list(tmp_path.iterdir()) == []


def test_a_pull_shows_bars_on_a_terminal(server: CannedServer, tmp_path: Path) -> None:
    layer = b'{"type":"progress","total":10,"layer":{"id":"sha256:abcdef0123456789","size":10,"current":10},"mode":"pull"}\n'
    server.on("POST", "/models/create", Answer(chunks=[layer, b'{"type":"success","message":"done"}\n']))

    with Terminal(["--host", server.url, "pull", "m"], environment(tmp_path, COLUMNS="120")) as terminal:
        terminal.expect("abcdef012345")
        terminal.expect("Pull complete")
        terminal.expect("done\r\n")
        assert terminal.process.wait(PATIENCE) == 0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    require("openssl", available=openssl is not None, reason="openssl is not on PATH")
    files = (tmp_path / "ca.crt", tmp_path / "key.pem")
    request = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=dmr"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([*request.split(), *names], check=True, capture_output=True)
    return files


def test_tls_trusts_the_named_authority_and_nobody_else(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with CannedServer(tls=context) as server:
        server.on("GET", "/models", [])
        address = server.url.removeprefix("https://")
        cases = {
            "trusted": {"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_TLS_CA_CERT": str(certificate[0])},
            "skipped": {"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_TLS_SKIP_VERIFY": "true"},
            "strange": {"MODEL_RUNNER_HOST": server.url},
            "missing": {"MODEL_RUNNER_TLS": "true"},
            "no certificate": {"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_TLS_CA_CERT": str(certificate[1])},
        }
        done = {
            name: run(tmp_path, "list", "-q", **{"MODEL_RUNNER_HOST": address} | env) for name, env in cases.items()
        }

    assert (done["trusted"].returncode, done["trusted"].stderr) == (0, "")
    assert (done["skipped"].returncode, done["skipped"].stderr) == (0, "")
    assert done["strange"].returncode == 1
    assert f"the certificate of {server.url} is not trusted: " in done["strange"].stderr
    assert done["missing"].returncode == 2
    assert "ca.crt': No such file or directory. Set MODEL_RUNNER_TLS_CA_CERT to a PEM file" in done["missing"].stderr
    assert done["no certificate"].returncode == 2
    assert "it holds no certificate" in done["no certificate"].stderr
