"""Where vLLM is, and which version, without starting it: importing PyTorch to be told takes half a minute."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_core.errors import BackendNotInstalledError, EngineVersionError

__all__ = ["OLDEST", "VARIABLE", "Installation", "find_installation"]

VARIABLE: Final = "VLLM_SERVER_PATH"
OLDEST: Final = (0, 10)
"""The first version that takes ``--runner`` and serves on a unix socket (vLLM's release notes)."""

_IMAGE: Final = Path("/opt/vllm-env/bin/vllm")  # where container images have it
_VERSION_FILE: Final = "version"  # beside the programs in those images
_METADATA: Final = re.compile(r"vllm-([0-9][0-9A-Za-z.+!]*)\.dist-info")
_NUMBERS: Final = re.compile(r"v?(\d+)\.(\d+)")


@attrs.frozen
class Installation:
    """A ``vllm`` program. ``version`` is empty where nothing tells."""

    program: Path
    version: str = ""

    @property
    def too_old(self) -> bool:
        """Whether the version is known to lack what dmr needs."""
        found = _NUMBERS.match(self.version)
        return found is not None and (int(found[1]), int(found[2])) < OLDEST

    def check(self) -> None:
        """Refuse a version that cannot work.

        Raises:
            EngineVersionError: it is too old.
        """
        if self.too_old:
            oldest = ".".join(map(str, OLDEST))
            raise EngineVersionError(
                "vllm",
                None,
                cause=f"vLLM {self.version} at {str(self.program)!r} is too old for dmr, which needs {oldest} or newer",
                remedy=f"Install a newer one and let {VARIABLE} name its `vllm` program.",
            )


def find_installation(environment: Mapping[str, str]) -> Installation:
    """The program that ``VLLM_SERVER_PATH``, the container image or ``PATH`` has.

    Raises:
        BackendNotInstalledError: there is none.
    """
    configured = environment.get(VARIABLE, "").strip()
    if configured:
        if not os.access(configured, os.X_OK) or not Path(configured).is_file():
            raise _missing(f"{VARIABLE} is {configured!r}, which is no program")
        return _installation(Path(configured))
    if os.access(_IMAGE, os.X_OK):
        return _installation(_IMAGE)
    found = shutil.which("vllm", path=environment.get("PATH", os.defpath))
    if found is None:
        raise _missing(f"install vLLM and set {VARIABLE} to its `vllm` program")
    return _installation(Path(found))


def _missing(why: str) -> BackendNotInstalledError:
    # The stock CLI matches "vLLM binary not found".
    return BackendNotInstalledError("vllm", f"vLLM binary not found; {why}")


def _installation(program: Path) -> Installation:
    return Installation(program, _version(program.parent.parent) or _version(program.resolve().parent.parent))


def _version(root: Path) -> str:
    """The version of what is installed at ``root``, a virtual environment or a prefix."""
    try:
        return (root / _VERSION_FILE).read_text(encoding="utf-8", errors="replace")[:64].strip()
    except OSError:
        pass
    found = (_METADATA.fullmatch(path.name) for path in root.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    return next((match[1] for match in found if match), "")
