"""The six wheels: what is in them, that each is whole by itself, and that engines are chosen by installing them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Sequence
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import START_LIMIT, STOP_LIMIT, daemon_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = (
    "dmr_core",
    "dmr_adapters",
    "dmr_backends_llamacpp",
    "dmr_backends_vllm",
    "dmr_backends_nim",
    "dmr_cli",
)
DEMO = (
    *("conversations.jsonl", "demo.gguf", "questions.json", "config.json", "generation_config.json"),
    *("model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
)

# Every module but two kinds: contract suites need the extra `testing`, the training script its own requirements.
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not found.name.startswith(("dmr_core.testing.contracts.", "dmr_cli.demo.")) and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        print(found.name)
"""


def run(*command: str | Path, **options: Any) -> str:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **options)
    if done.returncode:
        pytest.fail(f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    printed: str = done.stdout
    return printed


def environment_with(directory: Path, wheels: Path, *requirements: str) -> Path:
    """A clean virtual environment with these installed; its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    install(python, wheels, *requirements)
    return python


def install(python: Path, wheels: Path, *arguments: str | Path) -> None:
    # The constraints make sure that no index is asked for distributions of our names.
    constraints = wheels / "constraints.txt"
    constraints.write_text("".join(f"{name(wheel)} @ {wheel.as_uri()}\n" for wheel in wheels.glob("*.whl")))
    options = ("--quiet", "--find-links", wheels, "--constraint", constraints)
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *arguments)


def name(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the six wheels, built as ``make build`` does."""
    directory = tmp_path_factory.mktemp("dist")
    for distribution in DISTRIBUTIONS:
        run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT / distribution)
    return directory


@pytest.fixture(scope="module")
def with_nim(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the command line and one engine."""
    return environment_with(tmp_path_factory.mktemp("nim") / "venv", wheels, "dmr-cli", "dmr-backends-nim")


def listed_plugins(python: Path, root: Path, **variables: str) -> dict[str, dict[str, Any]]:
    """What ``dmr plugins`` shows of a service that runs on this interpreter, by plugin."""
    program, path = python.with_name("dmr"), root / "dmr.sock"
    environment = {**daemon_environment(root), "PYTHONPATH": "", "MODEL_RUNNER_HOST": f"unix://{path}", **variables}
    log = root / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", "--socket", path], env=environment, cwd=root, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            done = subprocess.run(
                [program, "plugins", "--json"], env=environment, cwd=root, capture_output=True, timeout=30, check=False
            )
            if done.returncode == 0:
                return {entry["name"]: entry for entry in json.loads(done.stdout)["plugins"]}
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the service did not start:\n{log.read_text()}\n{done.stderr.decode()}")
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        finally:
            process.kill()
            process.wait()


# --- contents ---------------------------------------------------------------------------------------


def sources(distribution: str) -> set[str]:
    """Python files of a distribution in the working tree."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / distribution).rglob("*.py")}


def names_in(wheels: Path, distribution: str) -> tuple[zipfile.ZipFile, set[str]]:
    (path,) = wheels.glob(f"{distribution}-*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    wheel = zipfile.ZipFile(path)
    return wheel, set(wheel.namelist())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_wheel_holds_its_package_and_nothing_else(wheels: Path, distribution: str) -> None:
    wheel, names = names_in(wheels, distribution)
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    info = f"{distribution}-{project['version']}.dist-info"
    with wheel:
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        points = ConfigParser(delimiters="=")
        points.optionxform = str  # type: ignore[method-assign,assignment]  # the documented way to keep case
        if f"{info}/entry_points.txt" in names:
            points.read_string(wheel.read(f"{info}/entry_points.txt").decode())

    demo = {path for path in names if path.startswith("dmr_cli/demo/") and not path.endswith(".py")}
    metadata_files = {path for path in names if path.startswith(f"{info}/")}
    assert sources(distribution) | {f"{distribution}/py.typed"} == names - demo - metadata_files
    assert {path.rpartition("/")[2] for path in demo} == (set(DEMO) if distribution == "dmr_cli" else set())
    assert {path.removeprefix(f"{info}/").partition("/")[0] for path in metadata_files} <= {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses"),
    }
    assert (distribution.replace("_", "-"), project["version"]) == (metadata["Name"], metadata["Version"])
    assert project.get("scripts", {}) == (dict(points["console_scripts"]) if "console_scripts" in points else {})
    assert project.get("entry-points", {}).get("dmr", {}) == (dict(points["dmr"]) if "dmr" in points else {})


def test_the_demo_model_and_its_questions_are_the_trees_own(wheels: Path) -> None:
    wheel, _ = names_in(wheels, "dmr_cli")
    with wheel:
        for path in ("questions.json", "model/demo.gguf", "model/safetensors/model.safetensors"):
            assert wheel.read(f"dmr_cli/demo/{path}") == (ROOT / "dmr_cli" / "demo" / path).read_bytes()


# --- each by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_wheel_installed_alone_has_all_it_imports(wheels: Path, tmp_path: Path, distribution: str) -> None:
    python = environment_with(tmp_path / "venv", wheels, distribution.replace("_", "-"))
    imported = run(python, "-I", "-c", IMPORT_ALL, distribution, cwd=tmp_path).split()

    assert len(imported) > 1 or distribution == "dmr_backends_nim"
    installed = json.loads(run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "json"))
    assert {entry["name"] for entry in installed if entry["name"].startswith("dmr-")} == required(distribution)


def required(distribution: str) -> set[str]:
    """A distribution and those of ours that it needs."""
    found = {distribution.replace("_", "-")}
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    needed: Sequence[str] = [text for text in project["dependencies"] if text.startswith("dmr-")]
    return found.union(*(required(text.replace("-", "_")) for text in needed))


# --- together ---------------------------------------------------------------------------------------


def test_only_the_engine_that_was_installed_is_listed(with_nim: Path, tmp_path: Path) -> None:
    plugins = listed_plugins(with_nim, tmp_path)

    assert set(plugins) == {"gpu-cann", "gpu-cpu", "gpu-cuda", "gpu-musa", "gpu-rocm", "nim"}
    assert {"ok"} == {entry["state"] for entry in plugins.values()}
    assert (plugins["nim"]["distribution"], plugins["nim"]["provides"]) == ("dmr-backends-nim", ["nim"])


def test_a_third_partys_distribution_is_built_installed_and_listed(
    with_nim: Path, wheels: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    install(with_nim, wheels, "--no-deps", "--target", site, ROOT / "tests" / "plugins" / "echo")
    plugins = listed_plugins(with_nim, tmp_path, PYTHONPATH=str(site))

    assert {"echo", "nim"} < set(plugins)
    assert plugins["echo"]["provides"] == ["echo"]
    assert "llamacpp" not in plugins
