"""Which llama.cpp server to run: the operator's, one on PATH, or the one that came with this package."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import attrs

from dmr_core.errors import BackendNotInstalledError

__all__ = ["Runtime", "find_runtime"]

_NAMES: Final = ("llama-server", "com.docker.llama-server")


@attrs.frozen
class Runtime:
    """A program that takes ``llama-server``'s flags. ``origin`` says where it was found, for people."""

    command: tuple[str, ...]
    origin: str
    native: bool


def find_runtime(environment: Mapping[str, str]) -> Runtime:
    """Look in ``LLAMA_SERVER_PATH`` (a directory, or the program itself), then ``PATH``, then this package.

    Raises:
        BackendNotInstalledError: ``LLAMA_SERVER_PATH`` holds no server, or there is none anywhere.
    """
    configured = environment.get("LLAMA_SERVER_PATH", "").strip()
    if configured:
        return Runtime((str(_configured(Path(configured))),), "LLAMA_SERVER_PATH", native=True)
    found = shutil.which("llama-server", path=environment.get("PATH", os.defpath))
    if found:
        return Runtime((found,), "PATH", native=True)
    try:
        bundled = version("xllamacpp")
    except PackageNotFoundError:
        raise BackendNotInstalledError(
            "llama.cpp", "install the package xllamacpp, or set LLAMA_SERVER_PATH to the directory of a llama-server"
        ) from None
    # The interpreter that runs us, not whatever `python` or a script's first line may mean elsewhere.
    command = (sys.executable, "-m", "dmr_backends_llamacpp.server")
    return Runtime(command, f"xllamacpp {bundled}", native=False)


def _configured(path: Path) -> Path:
    if path.is_file():
        return path
    for name in _NAMES:
        if os.access(path / name, os.X_OK):
            return path / name
    raise BackendNotInstalledError(
        "llama.cpp", f"LLAMA_SERVER_PATH is {str(path)!r}, and there is no executable llama-server there"
    )
