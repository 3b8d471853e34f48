"""The programs that the proxy benchmark needs: ours, compiled now, and those of the system."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.bench.processes import Unavailable

__all__ = ["build", "find"]

_SOURCES = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")


def find(program: str, package: str) -> Path:
    """A program of the system, also where only root's PATH leads.

    Raises:
        Unavailable: it is not installed.
    """
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise Unavailable(f"this benchmark needs {program}, and it is not on PATH: install {package}")
    return Path(found)


def build(source: str, program: Path) -> Path:
    """Compile a C file from beside this one.

    Raises:
        Unavailable: there is no compiler, or it fails.
    """
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise Unavailable("this benchmark needs a C compiler, and none of cc, gcc and clang is on PATH: install gcc")
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=gnu11", "-O2", "-o", str(program), str(_SOURCES / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{compiler} cannot compile {source}:\n{done.stderr}")
    return program
