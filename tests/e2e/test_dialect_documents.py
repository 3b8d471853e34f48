"""The examples of the dialects' documents are run as they stand."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.conftest import Daemon
from tests.e2e.test_readme import ROOT, blocks, matches


@pytest.mark.parametrize(
    ("name", "examples"), [("anthropic.md", 2), ("fidelity.md", 2), ("ollama.md", 4), ("openai.md", 3)]
)
def test_the_examples_are_as_they_are_written(daemon: Daemon, name: str, examples: int) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    commands = blocks((ROOT / "docs" / name).read_text())
    assert len(commands) == examples
    for command, documented in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:12434", daemon.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert matches(documented, done.stdout), done.stdout + done.stderr
