"""The plugins of ``docs/plugins.md``, installed and run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.test_plugins import install

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins.md"
FILE = re.compile(r"^`(?P<name>[\w./]+)`:\n\n```(?:toml|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGINS = ("dmr_backend_parrot", "dmr_detector_intel")
TESTS = ("test_parrot.py", "test_intel.py")
LONGEST = 80


def files() -> list[tuple[str, str]]:
    """Every file of the document, in its order."""
    return [(found["name"], found["text"]) for found in FILE.finditer(DOCUMENT.read_text(encoding="utf-8"))]


def write(root: Path) -> None:
    """A directory for each plugin, and the tests beside them."""
    projects = iter(PLUGINS)
    project = root
    for name, text in files():
        if name == "pyproject.toml":
            project = root / next(projects)
        place = (root if name in TESTS else project) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


@attrs.define
class Installed(Daemon):
    """A service of an interpreter that has both plugins, on a machine with one Intel GPU. llama.cpp is left out."""

    python: Path = Path(sys.executable)

    def start(self, *arguments: str) -> None:
        sys_ = self.root / "sys/bus/pci/devices/0000:03:00.0"
        sys_.mkdir(parents=True)
        for name, text in (("vendor", "0x8086"), ("class", "0x030000"), ("device", "0xe20b")):
            (sys_ / name).write_text(f"{text}\n")
        (self.root / "sys/drivers/xe").mkdir(parents=True)
        (sys_ / "driver").symlink_to(self.root / "sys/drivers/xe")
        self.environment |= {"DMR_INTEL_SYS": str(self.root / "sys"), "DMR_DISABLED_PLUGINS": "llamacpp"}
        super().start(*arguments)

    def shell(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Commands as they stand in a document: ``dmr`` and ``python`` are this interpreter's."""
        programs = self.root / "bin"
        programs.mkdir(exist_ok=True)
        dmr = programs / "dmr"
        dmr.write_text(f'#!/bin/sh\nexec "{self.python}" -m dmr_cli "$@"\n')
        dmr.chmod(0o755)
        environment = {
            **self.environment,
            "PATH": f"{programs}:{self.environment['PATH']}",
            "MODEL_RUNNER_HOST": self.url,
        }
        return subprocess.run(
            ["bash", "-euc", command], env=environment, cwd=self.root, capture_output=True, timeout=60, check=False
        )


@pytest.fixture(scope="module", params=["laid-out", pytest.param("pip", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """With both plugins: laid out as an installer does, and by pip in an environment of their own."""
    root = tmp_path_factory.mktemp("guide")
    write(root)
    environment = daemon_environment(root)
    if request.param == "pip":
        python = _with_pip(root)
    else:
        python, site = Path(sys.executable), root / "site"
        site.mkdir()
        for name in PLUGINS:
            install(root / name, site)
        inherited = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = ":".join([str(site), *inherited])
    made = Installed(root, environment, python=python)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        try:
            made.start()
            yield made
        finally:
            made.stop()
    assert made.engines() == []


def _with_pip(root: Path) -> Path:
    """An environment that sees what this one has, into which pip has put both."""
    run = [sys.executable, "-m"]
    subprocess.run([*run, "venv", "--without-pip", root / "venv"], check=True, timeout=60)
    python = root / "venv/bin/python"
    (site,) = (root / "venv/lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    pip = [*run, "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, *(root / name for name in PLUGINS)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return python


def test_each_plugin_is_short() -> None:
    lengths = {name: text.count("\n") for name, text in files() if name.endswith("__init__.py")}

    assert list(lengths) == [f"{name}/__init__.py" for name in PLUGINS]
    assert max(lengths.values()) < LONGEST


def test_both_are_listed_healthy_and_the_detector_saw_the_gpu(service: Installed) -> None:
    answer = json.loads(service.cli("plugins", "--json").stdout)
    listed = {plugin["name"]: plugin for plugin in answer["plugins"]}

    assert {
        name: (listed[name]["state"], listed[name]["provides"], listed[name]["version"])
        for name in listed
        if name in ("parrot", "gpu-intel")
    } == {
        "parrot": ("ok", ["parrot"], "1.0"),
        "gpu-intel": ("ok", ["intel"], "1.0"),
    }
    (seen,) = [found for found in answer["detections"] if found["variant"] == "intel"]
    assert [(device["name"], device["bus"], device["driver"]) for device in seen["devices"]] == [
        ("Intel GPU e20b", "0000:03:00.0", "xe")
    ]
    table = service.cli("plugins").stdout.decode()
    assert "Intel GPU e20b" in table
    assert json.loads(service.cli("status", "--json").stdout)["accelerator"]["variant"] == "intel"


def test_the_engine_answers_dmr_run_and_the_documents_own_commands(service: Installed) -> None:
    (commands,) = [found["text"] for found in COMMANDS.finditer(DOCUMENT.read_text(encoding="utf-8"))]
    done = service.shell(commands)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert ("dmr/demo", "Hello!") == (answer["model"], answer["choices"][0]["message"]["content"])

    assert service.cli("run", "dmr/demo", "Grüße from  here").stdout.decode() == "Grüße from  here\n"
    (runner,) = json.loads(service.cli("ps", "--json").stdout)
    assert runner["backend_name"] == "parrot"


def test_the_engine_refuses_what_it_cannot_honour_and_fails_safely(service: Installed) -> None:
    service.cli("pull", "dmr/demo")
    refused = service.cli("configure", "dmr/demo", "--", "--temp", "0.2", check=False)
    assert refused.returncode != 0
    assert b"a parrot takes no flags" in refused.stderr

    service.cli("configure", "--require", "gpu", "dmr/demo")
    done = service.cli("run", "dmr/demo", "hi", check=False)
    assert done.returncode == 1
    assert b"parrot does not tell where it computes" in done.stderr
    service.cli("configure", "reset", "dmr/demo")
    assert service.cli("run", "dmr/demo", "hi").stdout == b"hi\n"


@pytest.mark.parametrize("name", TESTS)
def test_its_own_tests_run_the_published_suites(service: Installed, name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": service.environment.get("PYTHONPATH", "")}
    shutil.rmtree(service.root / "__pycache__", ignore_errors=True)
    done = subprocess.run(
        [service.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", name],
        cwd=service.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 9
    assert "skipped" not in done.stdout
