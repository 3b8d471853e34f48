"""The service's own process, before there is anything in it."""

from __future__ import annotations

import subprocess
import sys

INHERITED = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from dmr_cli.server import program
from dmr_cli.server.settings import read_settings

async def serve(settings):
    return 0 if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL else 7

program._serve = serve
raise SystemExit(program.run(read_settings({}, socket_default=True)))
"""


def test_programs_have_an_exit_status_though_sigchld_was_inherited_as_ignored() -> None:
    assert subprocess.run([sys.executable, "-c", INHERITED], timeout=60, check=False).returncode == 0
