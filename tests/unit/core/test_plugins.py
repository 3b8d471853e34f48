"""Plugins are found one by one, and what one of them does wrong costs nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dmr_core.errors import PluginError
from dmr_core.hookspecs import HookSpecs, hookimpl
from dmr_core.plugins import PluginInfo, PluginRegistry, PluginState, installed_entry_points
from dmr_core.ports.backend import BackendSpec, DetectorSpec, EngineContext
from dmr_core.ports.engine import Engine
from dmr_core.ports.gpu import GpuDetector


def no_engine(_context: EngineContext) -> Engine:
    raise NotImplementedError


def no_detector() -> GpuDetector:
    raise NotImplementedError


def backend(name: str) -> BackendSpec:
    return BackendSpec(name=name, summary="A backend", factory=no_engine)


def detector(variant: str) -> DetectorSpec:
    return DetectorSpec(variant=variant, summary="A detector", factory=no_detector)


def plugin(**hooks: Callable[[], Any]) -> ModuleType:
    """A plugin module with these hooks."""
    module = ModuleType("plugin")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def giving(*specs: BackendSpec | DetectorSpec | object) -> ModuleType:
    return plugin(dmr_backends=lambda: iter(specs))


class Installed(Distribution):
    """A distribution nobody installed."""

    def __init__(self, name: str, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


class Point(EntryPoint):
    """An entry point that loads a given object, or raises a given error."""

    def load(self) -> Any:
        outcome = vars(self)["outcome"]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def point(name: str, outcome: object, distribution: str | None = None) -> EntryPoint:
    made = Point(name, "somewhere", "dmr")
    dist = None if distribution is None else Installed(distribution, "1.2")
    vars(made).update(outcome=outcome, dist=dist)
    return made


def broken(name: str, error: str, distribution: str = "", version: str = "") -> PluginInfo:
    return PluginInfo(name=name, distribution=distribution, version=version, state=PluginState.ERROR, error=error)


def healthy(name: str, *provides: str) -> PluginInfo:
    return PluginInfo(name=name, distribution="", version="", state=PluginState.OK, provides=provides)


def half_way() -> Iterable[BackendSpec]:
    yield backend("half")
    raise RuntimeError("half-way through")


def raising(error: BaseException) -> Callable[[], object]:
    def hook() -> object:
        raise error

    return hook


def test_a_healthy_plugin_is_listed_with_what_it_provides() -> None:
    echo, tpu = backend("echo"), detector("tpu")
    module = plugin(dmr_backends=lambda: [echo], dmr_gpu_detectors=lambda: (tpu,))
    registry = PluginRegistry.discover([point("echo", module, "dmr-backend-echo")])

    assert registry.backends == {"echo": echo}
    assert registry.detectors == {"tpu": tpu}
    assert registry.plugins() == (
        PluginInfo(
            name="echo",
            distribution="dmr-backend-echo",
            version="1.2",
            state=PluginState.OK,
            provides=("echo", "tpu"),
        ),
    )


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (ImportError("No module named 'gone'"), "ImportError: No module named 'gone'"),
        (SyntaxError("never closed"), "SyntaxError: never closed"),
        (SystemExit(3), "called sys.exit(3)"),
        (SystemExit("bye"), "called sys.exit('bye')"),
        (GeneratorExit(), "GeneratorExit: "),
        (plugin(dmr_no_such_hook=lambda: ()), "unknown hook "),
        (plugin(dmr_backends=half_way), "RuntimeError: half-way through"),
        (plugin(dmr_backends=raising(SystemExit(4))), "called sys.exit(4)"),
        (plugin(dmr_backends=lambda: 7), "TypeError: 'int' object is not iterable"),
        (giving("text"), "a hook gave a str where a BackendSpec is wanted: 'text'"),
        (
            giving(detector("tpu")),
            "a hook gave a DetectorSpec where a BackendSpec is wanted: DetectorSpec(variant='tpu'",
        ),
        (
            plugin(dmr_gpu_detectors=lambda: [backend("x")]),
            "a hook gave a BackendSpec where a DetectorSpec is wanted: ",
        ),
        (giving(backend("twice"), backend("twice")), "the name 'twice' is registered twice by this plugin"),
        (giving(backend("other")), "the name 'other' is already taken by plugin 'first'"),
        (plugin(dmr_backends=lambda: [backend("Bad Name")]), "invalid plugin spec name 'Bad Name': use 1 to 32"),
        (plugin(dmr_backends=raising(ValueError("one\n  two\n"))), "ValueError: one two"),
    ],
)
def test_whatever_a_plugin_does_wrong_is_one_line_and_costs_nobody_else(outcome: object, error: str) -> None:
    registry = PluginRegistry.discover(
        [point("first", giving(backend("other"))), point("bad", outcome), point("last", giving(backend("z")))]
    )

    first, bad, last = registry.plugins()
    assert (healthy("first", "other"), healthy("last", "z")) == (first, last)
    assert (PluginState.ERROR, ()) == (bad.state, bad.provides)
    assert error.strip() in bad.error
    assert "\n" not in bad.error
    assert list(registry.backends) == ["other", "z"]


def test_a_long_complaint_is_cut() -> None:
    (info,) = PluginRegistry.discover([point("long", ValueError("x" * 1000))]).plugins()

    assert len(info.error) == 300
    assert info.error.endswith("x…")


def test_an_interrupt_from_the_keyboard_is_nobodys_fault() -> None:
    with pytest.raises(KeyboardInterrupt):
        PluginRegistry.discover([point("slow", KeyboardInterrupt())])


@pytest.mark.parametrize("disabled", ["echo", "dmr-backend-echo"])
def test_a_disabled_plugin_is_listed_and_never_loaded(disabled: str) -> None:
    found = point("echo", AssertionError("it was loaded"), "dmr-backend-echo")
    registry = PluginRegistry.discover([found], frozenset({disabled}))

    assert registry.backends == {}
    assert registry.plugins() == (
        PluginInfo(name="echo", distribution="dmr-backend-echo", version="1.2", state=PluginState.DISABLED),
    )


def test_a_hook_may_give_nothing() -> None:
    registry = PluginRegistry.discover([point("none", plugin(dmr_backends=lambda: None)), point("empty", plugin())])

    assert registry.plugins() == (healthy("none"), healthy("empty"))


def test_hooks_without_an_implementation_of_their_own_give_nothing() -> None:
    specs = HookSpecs()

    assert [*specs.dmr_backends(), *specs.dmr_gpu_detectors()] == []


def test_two_plugins_of_one_name_are_told_apart_by_their_specs() -> None:
    registry = PluginRegistry.discover([point("same", giving(backend("a"))), point("same", giving(backend("b")))])

    assert registry.plugins() == (healthy("same", "a"), healthy("same", "b"))


def test_a_spec_whose_factory_failed_is_taken_from_its_plugin_alone() -> None:
    registry = PluginRegistry.discover(
        [
            point("one", plugin(dmr_backends=lambda: [backend("a"), backend("b")])),
            point("two", plugin(dmr_gpu_detectors=lambda: [detector("tpu")])),
        ]
    )
    registry.fail("a", ValueError("no such\ndevice"))
    registry.fail("tpu", PluginError("out of order"))

    assert list(registry.backends) == ["b"]
    assert registry.detectors == {}
    assert registry.plugins() == (
        PluginInfo(
            name="one",
            distribution="",
            version="",
            state=PluginState.ERROR,
            provides=("b",),
            error="a: ValueError: no such device",
        ),
        broken("two", "tpu: out of order"),
    )


@pytest.mark.parametrize("name", ["a", "llama.cpp", "x-1_2", "a" * 32])
def test_a_name_is_a_path_segment(name: str) -> None:
    assert backend(name).name == detector(name).variant == name


@pytest.mark.parametrize("name", ["", "a" * 33, "A", "-a", "a.", "a/b", "a b", "ä"])
def test_a_name_that_is_no_path_segment_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="invalid plugin spec name"):
        backend(name)
    with pytest.raises(PluginError, match="invalid plugin spec name"):
        detector(name)


def test_installed_entry_points_are_those_of_the_group_in_order() -> None:
    found = [entry.name for entry in installed_entry_points()]

    assert found == sorted(found)
    assert {"gpu-cpu", "gpu-cuda", "gpu-rocm", "gpu-musa", "gpu-cann", "llamacpp", "vllm", "nim"} <= set(found)
