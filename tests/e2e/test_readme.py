"""Every console block of the README is run as it stands; ``…`` stands for what differs from run to run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon

ROOT = Path(__file__).parents[2]


def blocks(text: str) -> list[tuple[str, str]]:
    """Commands of the console blocks, with the output each is said to have."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def matches(documented: str, output: str) -> bool:
    """Whether ``output`` is what is documented, whatever stands for ``…`` and at the ends of lines."""
    wanted = "\n".join(line.rstrip() for line in documented.strip().splitlines())
    given = "\n".join(line.rstrip() for line in output.strip().splitlines())
    pattern = ".*".join(re.escape(piece) for piece in wanted.split("…"))
    return re.fullmatch(pattern, given, re.DOTALL) is not None


def test_the_tour_runs_as_it_is_written(daemon: Daemon) -> None:
    daemon.start()
    programs = Path(sys.executable).parent
    environment = {
        **daemon.environment,
        "PATH": f"{programs}:{daemon.environment['PATH']}",
        "MODEL_RUNNER_HOST": daemon.url,
        "PYTHONWARNINGS": "default",
    }
    commands = blocks((ROOT / "README.md").read_text())
    assert len(commands) > 10
    for command, documented in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:12434", daemon.url)],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode or not matches(documented, done.stdout):
            pytest.fail(
                f"$ {command}\nexited with {done.returncode} and printed\n{done.stdout}\nbut is said to print\n{documented}"
            )
