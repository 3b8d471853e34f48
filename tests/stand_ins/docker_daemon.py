"""A real Docker Engine of our own: Debian's ``dockerd`` with its data, socket and bridge apart from everybody else's.

It touches no packet filter: ports are published by its userland proxy. It is no child of the tests, because one of them
stops it in the middle and starts another.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs
import pytest

from tests.conftest import require

__all__ = ["NVCR_ADDRESS", "DockerDaemon", "docker_daemon"]

NVCR_ADDRESS: Final = "127.0.0.9"
"""Where this engine looks for ``nvcr.io``, on port 80."""

_READY_WITHIN: Final = 60.0
_STOPS_WITHIN: Final = 60.0


@attrs.define
class DockerDaemon:
    """A Docker Engine with everything it has below ``root``, whose path is short enough for sockets.

    To it, and to nobody else, ``nvcr.io`` is an address of this machine: NGC, where nobody has let us in.
    """

    root: Path
    bridge: str

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.root / "docker.sock"

    @property
    def host(self) -> str:
        """``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, and return once it answers."""
        hosts = self.root / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{NVCR_ADDRESS} nvcr.io\n")
        command = [
            "setsid",
            "--fork",
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount --bind "$0" /etc/hosts; exec "$@"',
            str(hosts),
        ]
        command += ["dockerd", f"--data-root={self.root}/data", f"--exec-root={self.root}/exec"]
        command += ["--insecure-registry=nvcr.io"]
        command += [f"--pidfile={self.root}/pid", f"--host={self.host}", f"--bridge={self.bridge}"]
        command += [
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--log-level=warn",
        ]
        with (self.root / "log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)
        deadline = time.monotonic() + _READY_WITHIN
        while not self._answers():
            if time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"dockerd did not start:\n{(self.root / 'log').read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it, and return once it, and what it started, is gone."""
        try:
            pid = int((self.root / "pid").read_text())
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        deadline = time.monotonic() + _STOPS_WITHIN
        while _alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        (self.root / "pid").unlink(missing_ok=True)

    def clear(self) -> None:
        """Unmount what it left mounted, and remove its bridge."""
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.root}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)

    # --- what tests look at, by its API

    def containers(self, *, running: bool = False) -> list[dict[str, Any]]:
        """Its containers."""
        found: list[dict[str, Any]] = self.call("GET", f"/containers/json?all={'0' if running else '1'}")
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        """One of them."""
        found: dict[str, Any] = self.call("GET", f"/containers/{container}/json")
        return found

    def tags(self) -> set[str]:
        """The names of its images."""
        return {tag for image in self.call("GET", "/images/json") for tag in image["RepoTags"] or ()}

    def import_tar(self, tar: Path, name: str) -> None:
        """Make an image of a root directory."""
        with tar.open("rb") as file:
            self.call("POST", f"/images/create?fromSrc=-&repo={quote(name, safe='')}", file, tar.stat().st_size)

    def build(self, context: bytes, tag: str) -> None:
        """Build an image from a tar with a Dockerfile."""
        answer = self.call("POST", f"/build?t={quote(tag, safe='')}&forcerm=1", [context], len(context))
        assert "errorDetail" not in str(answer), answer

    def push(self, name: str, user: str, password: str) -> None:
        """Push an image to its registry."""
        login = {"username": user, "password": password, "serveraddress": name.partition("/")[0]}
        auth = base64.urlsafe_b64encode(json.dumps(login).encode()).decode()
        repository, _, tag = name.rpartition(":")
        answer = self.call("POST", f"/images/{repository}/push?tag={tag}", headers={"X-Registry-Auth": auth})
        assert "errorDetail" not in str(answer), answer

    def call(
        self,
        method: str,
        path: str,
        body: Iterable[bytes] | Any = None,
        length: int = 0,
        *,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One call of the API: the answer's JSON, a list of its lines where it is a stream of them."""
        connection = _UnixConnection(self.socket)
        fields = {"Content-Length": str(length), "Content-Type": "application/json", **(headers or {})}
        if body is not None and method == "POST" and "json" not in path:
            fields["Content-Type"] = "application/x-tar"
        try:
            connection.request(method, path, body=body, headers=fields)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status < 400, (method, path, answer.status, text)
        finally:
            connection.close()
        try:
            return json.loads(text) if text else None
        except ValueError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]

    def create(self, name: str, document: dict[str, Any]) -> str:
        """Make a container."""
        content = json.dumps(document).encode()
        connection = _UnixConnection(self.socket)
        try:
            connection.request("POST", f"/containers/create?name={name}", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            made = json.loads(answer.read())
            assert answer.status == 201, made
        finally:
            connection.close()
        return str(made["Id"])

    def _answers(self) -> bool:
        try:
            self.call("GET", "/_ping")
        except (OSError, http.client.HTTPException, AssertionError, ValueError):
            return self.socket.exists() and self._ok()
        return True

    def _ok(self) -> bool:
        connection = _UnixConnection(self.socket)
        try:
            connection.request("GET", "/version")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def docker_daemon(root: Path) -> Iterator[DockerDaemon]:
    """A Docker Engine for as long as this is entered; nothing is left of it afterwards, but files below ``root``."""
    programs = ("dockerd", "docker-proxy", "ip", "setsid", "unshare")
    missing = [name for name in programs if shutil.which(name) is None]
    require("docker", available=not missing, reason=f"{', '.join(missing)} not on PATH")
    require("docker", available=os.geteuid() == 0, reason="dockerd has to be started by root")
    daemon = DockerDaemon(root, f"dmr{os.getpid()}")
    made = subprocess.run(["ip", "link", "add", daemon.bridge, "type", "bridge"], capture_output=True, check=False)
    require("docker", available=made.returncode == 0, reason=f"no bridge can be made: {made.stderr.decode()}")
    try:
        third = os.getpid() % 250
        subprocess.run(["ip", "address", "add", f"10.231.{third}.1/24", "dev", daemon.bridge], check=True)
        subprocess.run(["ip", "link", "set", daemon.bridge, "up"], check=True)
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
        daemon.clear()


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"
