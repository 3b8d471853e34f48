"""Which llama.cpp server runs, where there are several."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from dmr_backends_llamacpp.runtime import Runtime, Search, find_runtime
from dmr_core.errors import BackendNotInstalledError

LAYOUT = "com.docker.llama-server.native.linux"


@attrs.frozen
class Machine:
    root: Path

    def program(self, path: str, *libraries: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        for library in libraries:
            place = self.root / library
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"")
        return file

    def find(self, variant: str = "cpu", *, forced: bool = False, arch: str = "x86_64", **environment: str) -> Runtime:
        search = Search(
            environment={"PATH": str(self.root / "bin"), "HOME": str(self.root / "home"), **environment},
            variant=variant,
            forced=forced,
            root=self.root,
            machine=arch,
        )
        return find_runtime(search)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_places_are_looked_at_in_a_fixed_order(machine: Machine) -> None:
    configured = machine.program("opt/llama-server")
    places = [
        machine.program(f"{LAYOUT}.cuda.amd64/bin/com.docker.llama-server"),
        machine.program(f"{LAYOUT}.generic.amd64/bin/com.docker.llama-server"),
        machine.program(f"{LAYOUT}.cpu.amd64/bin/com.docker.llama-server"),
        machine.program("app/llama-server"),
        machine.program("bin/llama-server"),
        machine.program("home/.docker/model-runner/llama.cpp/bin/com.docker.llama-server"),
    ]
    origins = []
    assert (str(configured),) == machine.find("cuda", LLAMA_SERVER_PATH=str(configured.parent)).command
    for place in places:
        found = machine.find("cuda")
        assert (str(place),) == found.command
        assert found.native
        assert found.reason
        origins.append(found.origin)
        place.unlink()

    assert [*[str(machine.root)] * 3, "/app", "PATH", "~/.docker/model-runner/llama.cpp/bin"] == origins
    last = machine.find("cuda")
    assert (False, "cpu") == (last.native, last.variant)
    assert "built for the CPU" in last.reason


@pytest.mark.parametrize(
    ("variant", "arch", "built", "reason"),
    [
        ("cuda", "x86_64", "cuda.amd64", "the build for cuda"),
        ("cuda", "aarch64", "cuda.arm64", "the build for cuda"),
        ("rocm", "x86_64", "rocm.amd64", "the build for rocm"),
        ("musa", "x86_64", "musa.amd64", "the build for musa"),
        ("cann", "aarch64", "cann.arm64", "the build for cann"),
        ("cpu", "x86_64", "cpu.amd64", "the build for cpu"),
        ("cuda", "x86_64", "generic.amd64", "there is no build for cuda beside it"),
        ("cuda", "x86_64", "cpu.amd64", "there is no build for cuda or generic beside it"),
        ("cpu", "x86_64", "generic.amd64", "it uses any GPU (Vulkan)"),
    ],
)
@pytest.mark.parametrize("shape", ["", "/bin/llama-server", "/bin/com.docker.llama-server", "/llama-server"])
def test_the_accelerator_chooses_the_build(
    machine: Machine, variant: str, arch: str, built: str, reason: str, shape: str
) -> None:
    """As a program, a directory with ``bin``, or one with the program; at the root, or where LLAMA_SERVER_PATH says."""
    machine.program(f"{LAYOUT}.other.amd64/bin/llama-server")
    machine.program(f"image/{LAYOUT}.other.amd64/bin/llama-server")
    for place, configured in (("", ""), ("image/", str(machine.root / "image"))):
        program = machine.program(f"{place}{LAYOUT}.{built}{shape}")
        found = machine.find(variant, arch=arch, LLAMA_SERVER_PATH=configured)
        assert (str(program),) == found.command
        assert reason in found.reason


def test_a_build_for_another_architecture_is_not_taken(machine: Machine) -> None:
    machine.program(f"{LAYOUT}.cuda.arm64/bin/llama-server")

    assert not machine.find("cuda", arch="x86_64").native


def test_libraries_beside_a_program_are_found_by_it_and_tell_what_it_is_for(machine: Machine) -> None:
    app = machine.program("app/llama-server", "app/libggml-base.so.0", "app/libggml-vulkan.so", "app/libggml-hip.so")
    found = machine.find("rocm", LD_LIBRARY_PATH="/opt/rocm/lib")

    assert found.variant == "rocm"
    assert found.environment == {"LD_LIBRARY_PATH": f"{app.parent}{os.pathsep}/opt/rocm/lib"}
    assert machine.find("cuda").variant == "rocm"

    build = f"{LAYOUT}.cuda.amd64"
    machine.program(f"{build}/bin/com.docker.llama-server", f"{build}/lib/libggml-base.so")
    found = machine.find("cuda")
    assert ("cuda", {"LD_LIBRARY_PATH": str(machine.root / build / "lib")}) == (found.variant, dict(found.environment))


def test_a_program_without_libraries_gets_no_library_path(machine: Machine) -> None:
    machine.program("bin/llama-server")
    found = machine.find("cuda", LD_LIBRARY_PATH="/usr/lib/wsl/lib")

    assert ("", {}) == (found.variant, dict(found.environment))


@pytest.mark.parametrize("what", ["nothing", "directory", "not executable"])
def test_what_is_configured_and_not_there_is_an_error_not_another_program(machine: Machine, what: str) -> None:
    machine.program("bin/llama-server")
    place = machine.root / "opt"
    if what != "nothing":
        place.mkdir()
    if what == "not executable":
        machine.program("opt/llama-server").chmod(0o644)

    with pytest.raises(BackendNotInstalledError, match="no executable llama-server there"):
        machine.find(LLAMA_SERVER_PATH=str(place))
