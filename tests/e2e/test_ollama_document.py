"""The examples of ``docs/ollama.md`` are run as they stand."""

from __future__ import annotations

import subprocess

from tests.e2e.conftest import Daemon
from tests.e2e.test_readme import ROOT, blocks, matches


def test_the_examples_are_as_they_are_written(daemon: Daemon) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    commands = blocks((ROOT / "docs" / "ollama.md").read_text())
    assert len(commands) == 4
    for command, documented in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:12434", daemon.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert matches(documented, done.stdout), done.stdout + done.stderr
