"""Puts the stand-in engine where a ``llama-server`` is looked for."""

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["install_standin", "reconfigure_standin"]

_SOURCE = Path(__file__).with_name("engine.py")


def install_standin(directory: Path, *, name: str = "llama-server", **config: Any) -> Path:
    """Install the stand-in as an executable in ``directory``, misbehaving as ``config`` says.

    See ``engine.py`` for what can be said. Returns the program.
    """
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    # Without site-packages and their .pth files it starts in a third of the time.
    program.write_text(f"#!{sys.executable} -SE\n" + _SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
    program.chmod(0o755)
    reconfigure_standin(program, **config)
    return program


def reconfigure_standin(program: Path, **config: Any) -> None:
    """Let the next starts of ``program`` behave as ``config`` says; those that run stay as they are."""
    program.with_name("standin.json").write_text(json.dumps(config), encoding="utf-8")
