"""Promises about the tree as a whole: who imports whom, what is documented, what has one version."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dmr_cli.main import ALIASES, COMMANDS, cli
from dmr_core import __version__
from dmr_core.domain.artifact import Format
from dmr_core.hookspecs import HookSpecs
from dmr_core.plugins import PluginRegistry, PluginState
from dmr_core.ports.backend import BackendSpec, DetectorSpec, EngineContext
from dmr_core.testing.fakes.process import FakeProcessSupervisor

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = (
    "dmr_core",
    "dmr_adapters",
    "dmr_backends_llamacpp",
    "dmr_backends_vllm",
    "dmr_backends_nim",
    "dmr_cli",
)
MODULES = [path.relative_to(ROOT) for name in DISTRIBUTIONS for path in sorted((ROOT / name).rglob("*.py"))]
PUBLIC = [path for path in MODULES if not path.name.startswith("_")]
HOOKS = [name for name in vars(HookSpecs) if name.startswith("dmr_")]
MAX_LINES = 400


class EchoEngine:
    """Stands for the engine that examples leave to the reader."""

    def __init__(self, *_context: object) -> None:
        """Whatever it is given."""


class TpuDetector:
    """Stands for the detector that examples leave to the reader."""


LEFT_TO_THE_READER: dict[str, Any] = {"EchoEngine": EchoEngine, "TpuDetector": TpuDetector, "CudaDetector": TpuDetector}


def example(documented: object) -> str:
    """The code after ``Example::`` in a docstring."""
    text = textwrap.dedent("    " + (documented.__doc__ or ""))
    _, found, code = text.partition("Example::\n")
    assert found, f"{documented} has no Example"
    return textwrap.dedent(code).strip()


def metadata(directory: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return project


# --- the tree ---------------------------------------------------------------------------------------


def test_everybody_imports_only_what_they_may() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_all_distributions_have_one_version() -> None:
    declared = {name: metadata(ROOT / name)["version"] for name in DISTRIBUTIONS}
    imported = {name: import_module(name).__version__ for name in DISTRIBUTIONS}

    assert dict.fromkeys(DISTRIBUTIONS, __version__) == declared == imported
    assert metadata(ROOT)["version"] == __version__


def test_the_meta_distribution_has_all_of_them_and_their_programs() -> None:
    required = {requirement.partition(" @ ")[0] for requirement in metadata(ROOT)["dependencies"]}

    assert required == {name.replace("_", "-") for name in DISTRIBUTIONS}
    assert metadata(ROOT / "dmr_cli")["scripts"].items() <= metadata(ROOT)["scripts"].items()


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_every_public_module_says_what_it_is_for_and_what_it_offers(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }

    assert ast.get_docstring(tree), "no docstring"
    assert "__all__" in assigned, "no __all__"


@pytest.mark.parametrize("path", [".ci/run"])
def test_what_ci_runs_can_be_run(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)
    assert (ROOT / path).read_text().startswith("#!")


# --- hooks ------------------------------------------------------------------------------------------


class Example(EntryPoint):
    """An entry point to the module an example makes."""

    def load(self) -> ModuleType:
        module = ModuleType(self.name)
        vars(module).update(LEFT_TO_THE_READER)
        exec(compile(self.value, self.name, "exec"), vars(module))
        return module


def specs_of(registry: PluginRegistry) -> Iterable[BackendSpec | DetectorSpec]:
    return (*registry.backends.values(), *registry.detectors.values())


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_every_hook_is_a_plugin_that_works(hook: str) -> None:
    code = example(getattr(HookSpecs, hook))
    registry = PluginRegistry.discover([Example(hook, code, "dmr")])

    (info,) = registry.plugins()
    assert (PluginState.OK, "") == (info.state, info.error)
    assert [hook] == re.findall(r"^def (\w+)", code, re.MULTILINE)
    assert len(list(specs_of(registry))) == 1


def test_there_are_hooks() -> None:
    assert HOOKS == ["dmr_backends", "dmr_gpu_detectors"]


def test_the_example_of_a_backend_spec_makes_an_engine() -> None:
    names = {"BackendSpec": BackendSpec, "Format": Format, **LEFT_TO_THE_READER}
    spec = eval(example(BackendSpec), names)

    assert isinstance(spec, BackendSpec)
    assert isinstance(spec.factory(EngineContext(processes=FakeProcessSupervisor())), EchoEngine)


def test_the_example_of_a_detector_spec_makes_a_detector() -> None:
    spec = eval(example(DetectorSpec), {"DetectorSpec": DetectorSpec, **LEFT_TO_THE_READER})

    assert isinstance(spec, DetectorSpec)
    assert isinstance(spec.factory(), TpuDetector)


# --- README -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_mentions_every_command(readme: str, command: str) -> None:
    assert re.search(rf"`{command}`|\bdmr {command}\b", readme)


def test_the_readme_mentions_every_variable_that_serve_does(readme: str) -> None:
    done = CliRunner().invoke(cli, ["serve", "--help"], prog_name="dmr", color=False)
    variables = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", done.output))

    assert (0, None) == (done.exit_code, done.exception)
    assert {"MODEL_RUNNER_PORT", "MODELS_PATH", "LLAMA_ARGS"} <= variables
    assert variables - set(re.findall(r"`([A-Z_]+)\b", readme)) == set()


@pytest.mark.parametrize("name", [*COMMANDS, *ALIASES])
def test_every_command_explains_itself_with_examples(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    done = CliRunner().invoke(cli, [name, "--help"], prog_name="dmr")

    assert done.exit_code == 0
    assert command.help
    assert re.search(rf"Examples?:\n\s+dmr {command.name}\b", done.output), done.output
