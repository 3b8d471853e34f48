"""``dmr serve`` as its users run it, with a store, a home and a runtime directory of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tests.bench.processes import Unavailable, free_port, running, wait_for

__all__ = ["ANSWER_LIMIT", "MODEL", "Service", "ask", "dmr_program", "environment", "listening", "serving"]

MODEL = "dmr/demo"
ANSWER_LIMIT = 60.0


@attrs.frozen
class Service:
    """A service that answers on a loopback port."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


def dmr_program() -> Path:
    """The installed ``dmr`` of this environment."""
    program = Path(sys.executable).with_name("dmr")
    if not program.exists():
        raise Unavailable(f"{program} does not exist: run `make setup`")
    return program


def environment(root: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs see: nothing of the settings of whoever runs the benchmark."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(root),
        "MODELS_PATH": str(root / "models"),
        "DMR_RUNTIME_DIR": str(root / "run"),
        "LOG_LEVEL": "error",
        **(extra or {}),
    }


@contextlib.contextmanager
def serving(root: Path, extra: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service with the bundled model in its store."""
    port, log = free_port(), root / "serve.log"
    with running([str(dmr_program()), "serve", "--port", str(port)], environment(root, extra), log) as process:
        wait_for(lambda: listening(port), process, log)
        status, answer = ask(port, "/models/create", {"from": MODEL})
        if status != 200:
            raise Unavailable(f"cannot pull {MODEL}: {status} {answer.decode(errors='replace')}")
        yield Service(port, process)


def listening(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, path: str, body: object) -> tuple[int, bytes]:
    """POST JSON; the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
