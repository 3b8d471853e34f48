"""A third party's engine that is installed, used, removed, and killed in the middle, by the installed dmr."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import daemon_environment
from tests.e2e.test_plugins import PLUGINS, SocketDaemon, install

MESSAGES = [{"role": "user", "content": "hello"}]
ROUTE = "/engines/installable/v1/chat/completions"
LIMIT = 20.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SocketDaemon]:
    site = tmp_path / "site"
    site.mkdir()
    install(PLUGINS / "installable", site)
    environment = daemon_environment(tmp_path)
    search = [str(site), *([environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else [])]
    (tmp_path / "engines").mkdir()
    extra = {"PYTHONPATH": ":".join(search), "INSTALLABLE_ROOT": str(tmp_path / "engines")}
    daemon = SocketDaemon(tmp_path, {**environment, **extra})
    try:
        daemon.start()
        daemon.cli("pull", "dmr/demo")
        yield daemon
    finally:
        daemon.stop()
    assert daemon.engines() == []


def ask(service: SocketDaemon) -> tuple[int, dict[str, Any]]:
    return service.chat(ROUTE, {"model": "dmr/demo", "messages": MESSAGES})


def backend(service: SocketDaemon) -> dict[str, Any]:
    found = json.loads(service.cli("backend", "list", "--json").stdout)
    return next(entry for entry in found if entry["name"] == "installable")


def wait_for(service: SocketDaemon, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT
    while (found := backend(service))["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def engines(service: SocketDaemon) -> set[str]:
    return {entry.name for entry in (service.root / "engines").iterdir()}


def test_an_engine_is_installed_used_and_removed(service: SocketDaemon) -> None:
    before = service.cli("status").stdout.decode()
    assert "installable  Not Installed  package not installed" in before
    assert "`dmr backend install installable` installs it" in before

    done = service.cli("backend", "install", "installable", "--version", "2.1")
    assert b"installable backend installed successfully\n" == done.stdout
    assert b"downloading installable 2.1: " in done.stderr
    assert "installable 2.1" in service.cli("status").stdout.decode()
    status, answer = ask(service)
    assert (200, "hello") == (status, answer["choices"][0]["message"]["content"])

    assert (
        b"installable backend uninstalled successfully\n" == service.cli("backend", "uninstall", "installable").stdout
    )
    assert ("not-installed", set()) == (backend(service)["state"], engines(service))
    assert "[]\n" == service.cli("ps", "--json").stdout.decode()


def test_the_first_requests_install_it_once_and_wait(service: SocketDaemon) -> None:
    hold = service.root / "engines" / "hold"
    hold.touch()
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask, service) for _ in range(4)]
        wait_for(service, "installing")
        assert "Installing     downloading installable 1.0 (" in service.cli("status").stdout.decode()
        hold.unlink()
        answers = [one.result(LIMIT) for one in asked]

    assert [(200, "hello")] * 4 == [(status, answer["choices"][0]["message"]["content"]) for status, answer in answers]
    log = service.log.read_text()
    assert 1 == log.count("installing installable")


def test_a_failure_is_told_to_everybody_and_does_not_last(service: SocketDaemon) -> None:
    fail = service.root / "engines" / "fail"
    fail.touch()
    done = service.cli("backend", "install", "installable", check=False)
    assert (1, b"") == (done.returncode, done.stdout)
    assert b"Error: backend installation failed: the disk of the mirror is full; try another one\n" in done.stderr
    assert "Error          the disk of the mirror is full" in service.cli("status").stdout.decode()
    status, answer = ask(service)
    assert (503, "backend_install_failed") == (status, answer["error"]["code"])

    fail.unlink()
    assert 0 == service.cli("backend", "install", "installable").returncode
    assert 200 == ask(service)[0]


def test_interrupting_the_command_leaves_the_installation_and_removing_ends_it(service: SocketDaemon) -> None:
    hold = service.root / "engines" / "hold"
    hold.touch()
    command = [sys.executable, "-m", "dmr_cli", "--host", service.url, "backend", "install", "installable"]
    client = subprocess.Popen(command, env=service.environment, stderr=subprocess.DEVNULL)
    wait_for(service, "installing")
    client.send_signal(signal.SIGINT)
    assert client.wait(LIMIT) in (130, -signal.SIGINT)
    assert backend(service)["state"] == "installing"

    service.cli("backend", "uninstall", "installable")
    assert ("not-installed", {"hold"}) == (backend(service)["state"], engines(service))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_killed_in_the_middle_starts_clean(service: SocketDaemon, number: int) -> None:
    hold = service.root / "engines" / "hold"
    hold.touch()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(service.cli, "backend", "install", "installable", check=False)
        wait_for(service, "installing")
        service.stop(number)
        assert asked.result(LIMIT).returncode != 0
    hold.unlink()

    service.start()
    found = backend(service)
    assert ("not-installed", 0, "package not installed") == (found["state"], found["attempts"], found["detail"])
    assert 200 == ask(service)[0]
    assert {"engine"} == engines(service)
