"""Which llama.cpp server to run: the operator's, the one for this machine's accelerator, or the one that came with this package.

The order is that of :func:`find_runtime`, and the first that is there wins. Images of the reference have their servers in one of
two places: ``/com.docker.llama-server.native.linux.VARIANT.ARCH`` (a program, or a directory with ``bin`` and ``lib``), and
``/app`` with its libraries beside it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import attrs

from dmr_core.domain.gpu import CPU
from dmr_core.errors import BackendNotInstalledError

__all__ = ["Runtime", "Search", "find_runtime", "is_bundled"]

_NAMES: Final = ("llama-server", "com.docker.llama-server")
_LAYOUT: Final = "com.docker.llama-server.native.linux"
_PER_USER: Final = Path(".docker/model-runner/llama.cpp/bin")
"""Where the reference keeps the server of a user who installs it without an image."""

_GENERIC: Final = "generic"
"""The reference's build that uses any GPU there is (Vulkan)."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# ggml's backends that are libraries of their own, by what dmr calls the accelerator.
_LIBRARIES: Final = (("cuda", "cuda"), ("hip", "rocm"), ("musa", "musa"), ("cann", "cann"), ("vulkan", "vulkan"))
_LIBRARY_PATH: Final = "LD_LIBRARY_PATH"


@attrs.frozen(kw_only=True)
class Runtime:
    """A program that takes ``llama-server``'s flags.

    ``origin`` says where it was found and ``reason`` why it is this one, both for people. ``variant`` is what it was built
    for, empty where that cannot be told from its files; ``environment`` is what it needs to find its libraries.
    """

    command: tuple[str, ...]
    origin: str
    native: bool
    variant: str = ""
    reason: str = ""
    environment: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def program(self) -> str:
        """The program as people would start it."""
        return " ".join(self.command)


@attrs.frozen(kw_only=True)
class Search:
    """Where to look. ``variant`` is the accelerator to run on; ``forced`` that the operator chose it."""

    environment: Mapping[str, str] = attrs.field(repr=False)
    variant: str = CPU
    forced: bool = False
    root: Path = Path("/")
    machine: str = attrs.field(factory=platform.machine)

    @property
    def variants(self) -> tuple[str, ...]:
        """Builds that could be used here, the best first."""
        if self.variant == CPU:
            return (CPU, _GENERIC)
        return (self.variant, _GENERIC, CPU)

    def layout(self, variant: str) -> str:
        """How the reference names the build for ``variant`` on this machine."""
        return f"{_LAYOUT}.{variant}.{_ARCHITECTURES.get(self.machine, self.machine)}"


def find_runtime(search: Search) -> Runtime:
    """The first server there is, in a fixed order.

    1. ``LLAMA_SERVER_PATH``: the program itself, a directory with it, or one with builds for several accelerators;
    2. ``/com.docker.llama-server.native.linux.VARIANT.ARCH``, for the accelerator, then ``generic``, then ``cpu``;
    3. ``/app``;
    4. ``PATH``;
    5. ``~/.docker/model-runner/llama.cpp/bin``;
    6. the server of the wheel ``xllamacpp``, which uses the CPU.

    Raises:
        BackendNotInstalledError: ``LLAMA_SERVER_PATH`` holds no server, or there is none anywhere.
    """
    environment = search.environment
    configured = environment.get("LLAMA_SERVER_PATH", "").strip()
    if configured:
        return _configured(search, Path(configured))
    found = next(_elsewhere(search), None)
    if found is not None:
        return found
    try:
        bundled = version("xllamacpp")
    except PackageNotFoundError:
        raise BackendNotInstalledError(
            "llama.cpp", "install the package xllamacpp, or set LLAMA_SERVER_PATH to the directory of a llama-server"
        ) from None
    # The interpreter that runs us, not whatever `python` or a script's first line may mean elsewhere.
    command = (sys.executable, "-m", "dmr_backends_llamacpp.server")
    reason = "it came with dmr and is built for the CPU; LLAMA_SERVER_PATH names no other, and none was found"
    return Runtime(command=command, origin=f"xllamacpp {bundled}", native=False, variant=CPU, reason=reason)


def is_bundled(search: Search) -> bool:
    """Whether the server that came with dmr would run, which has not every flag of a native one."""
    try:
        return not find_runtime(search).native
    except BackendNotInstalledError:
        return False


def _configured(search: Search, path: Path) -> Runtime:
    if path.is_file():
        return _native(search, path, "LLAMA_SERVER_PATH", "LLAMA_SERVER_PATH names it")
    program = _in(path)
    if program is not None:
        return _native(search, program, "LLAMA_SERVER_PATH", "LLAMA_SERVER_PATH names its directory")
    found = next(_builds(search, path, f"LLAMA_SERVER_PATH={path}"), None)
    if found is not None:
        return found
    raise BackendNotInstalledError(
        "llama.cpp", f"LLAMA_SERVER_PATH is {str(path)!r}, and there is no executable llama-server there"
    )


def _elsewhere(search: Search) -> Iterator[Runtime]:
    environment = search.environment
    yield from _builds(search, search.root, str(search.root))
    if (program := _in(search.root / "app")) is not None:
        yield _native(search, program, "/app", "the container image has it in /app")
    if on_path := shutil.which("llama-server", path=environment.get("PATH", os.defpath)):
        yield _native(search, Path(on_path), "PATH", "it is on PATH")
    home = environment.get("HOME", "")
    if home and (program := _in(Path(home) / _PER_USER)) is not None:
        yield _native(search, program, f"~/{_PER_USER}", f"it is in ~/{_PER_USER}")


def _builds(search: Search, directory: Path, origin: str) -> Iterator[Runtime]:
    """The builds of one directory, in the order of :attr:`Search.variants`."""
    missing: list[str] = []
    for variant in search.variants:
        place = directory / search.layout(variant)
        program = place if _runs(place) else _in(place / "bin") or _in(place)
        if program is None:
            missing.append(variant)
            continue
        lacking = f"there is no build for {' or '.join(missing)} beside it" if missing else ""
        for_whom = {
            search.variant: f"it is the build for {search.variant}, which is used here",
            _GENERIC: f"it uses any GPU (Vulkan); {lacking}",
        }.get(variant, f"it is built for the CPU; {lacking}")
        # The reference's build for the CPU is Vulkan's in its images: what it can do only it can tell.
        built = variant if variant not in (CPU, _GENERIC) else "vulkan" if variant == _GENERIC else ""
        yield _native(search, program, origin, for_whom, variant=built)


def _native(search: Search, program: Path, origin: str, reason: str, *, variant: str = "") -> Runtime:
    libraries = [place for place in (program.parent, program.parent.parent / "lib") if _has_libraries(place)]
    environment = {}
    if libraries:
        before = search.environment.get(_LIBRARY_PATH, "")
        paths = [str(place) for place in libraries] + ([before] if before else [])
        environment = {_LIBRARY_PATH: os.pathsep.join(paths)}
    built = variant or _built_for(libraries, search.variant)
    return Runtime(
        command=(str(program),), origin=origin, native=True, variant=built, reason=reason, environment=environment
    )


def _built_for(libraries: list[Path], wanted: str) -> str:
    """What ggml's libraries beside a program are for: the accelerator that is wanted, if it is among them."""
    built = [
        variant
        for library, variant in _LIBRARIES
        if any((place / f"libggml-{library}.so").exists() for place in libraries)
    ]
    return wanted if wanted in built else next(iter(built), "")


def _has_libraries(place: Path) -> bool:
    try:
        return any(True for _ in place.glob("libggml*.so*"))
    except OSError:
        return False


def _in(directory: Path) -> Path | None:
    return next((directory / name for name in _NAMES if _runs(directory / name)), None)


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
