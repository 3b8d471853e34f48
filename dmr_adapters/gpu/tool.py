"""Running a vendor's tool that may hang, fail, or print without end.

A tool that talks to a driver which hangs sleeps in the kernel where no signal reaches it. So nothing here waits for a tool's
death: it is killed with its whole process group, and if it will not die, a thread of no importance reaps it one day.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.gpu.wording import plain

__all__ = ["Outcome", "ToolAnswer", "find_tool", "run_tool", "tool_environment"]

_MOST_OUTPUT: Final = 4 * 1024 * 1024
_MOST_ERRORS: Final = 64 * 1024
_CHUNK: Final = 65536

_TICK: Final = 0.05
"""Seconds between looks at whether somebody cancelled, or the tool ended with its output held open by a child."""

_SOON: Final = 0.002
"""Seconds between looks at a tool that closed its output and is about to end."""

_DYING: Final = 1.0
"""Seconds a killed tool has to die before it is left to itself."""

_FOLDERS: Final = ("/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/usr/local/sbin", "/sbin")


class Outcome(Enum):
    """How it ended."""

    ENDED = "ended"
    HUNG = "hung"
    TOO_MUCH = "printed too much"
    NOT_STARTED = "not started"


@attrs.frozen(kw_only=True)
class ToolAnswer:
    """``status`` as :attr:`subprocess.Popen.returncode`, for one that ended; ``errors`` says why one did not start."""

    outcome: Outcome
    status: int | None = None
    output: str = ""
    errors: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.outcome is Outcome.ENDED and self.status == 0

    @property
    def complaint(self) -> str:
        """The first thing it said went wrong, shortened; else how it ended."""
        for line in (*self.errors.splitlines(), *self.output.splitlines()):
            if text := plain(line):
                return text
        if self.outcome is Outcome.ENDED:
            return f"exit status {self.status}"
        return str(self.outcome.value)


def find_tool(name: str, folders: Sequence[Path] = (), path: str = "") -> Path | None:
    """The executable called ``name``: in ``folders``, else where systems keep tools, else along ``path``."""
    along = [folder for folder in path.split(os.pathsep) if os.path.isabs(folder)]  # noqa: PTH117 - strings of a variable
    for folder in (*folders, *map(Path, (*_FOLDERS, *along))):
        tool = folder / name
        if tool.is_file() and os.access(tool, os.X_OK):
            return tool
    return None


def tool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a tool may know: where libraries are, and that we read English. No secret of ours."""
    kept = {name: environ[name] for name in ("LD_LIBRARY_PATH",) if name in environ}
    return {"PATH": os.pathsep.join(_FOLDERS), "LC_ALL": "C", **kept}


async def run_tool(arguments: Sequence[str | Path], *, limit: float, environ: Mapping[str, str]) -> ToolAnswer:
    """Run it for ``limit`` seconds at most. Never raises; cancelling kills it, and waits a moment for its death."""
    stop = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(
        None, _attend, [str(part) for part in arguments], limit, environ, stop
    )
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.shield(work)
        raise


def _attend(arguments: list[str], limit: float, environ: Mapping[str, str], stop: threading.Event) -> ToolAnswer:
    try:
        popen = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tool_environment(environ),
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        return ToolAnswer(outcome=Outcome.NOT_STARTED, errors=f"{arguments[0]} cannot be run: {exc}")
    assert popen.stdout is not None  # noqa: S101 - as asked for above
    assert popen.stderr is not None  # noqa: S101
    texts = {popen.stdout.fileno(): bytearray(), popen.stderr.fileno(): bytearray()}
    most = {popen.stdout.fileno(): _MOST_OUTPUT, popen.stderr.fileno(): _MOST_ERRORS}
    try:
        with popen.stdout, popen.stderr:
            outcome = _read(popen, texts, most, time.monotonic() + limit, stop)
    finally:
        status = _end(popen)
    output, errors = (text.decode("utf-8", "replace") for text in texts.values())
    return ToolAnswer(
        outcome=outcome, status=status if outcome is Outcome.ENDED else None, output=output, errors=errors
    )


def _read(
    popen: subprocess.Popen[bytes],
    texts: dict[int, bytearray],
    most: dict[int, int],
    until: float,
    stop: threading.Event,
) -> Outcome:
    """Read until it ended; it is not reaped, so that its process group is surely still its own."""
    with selectors.DefaultSelector() as selector:
        for descriptor in texts:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            over = _exited(popen)  # first: what was written before the end is read below
            pause = 0.0 if over else _TICK if selector.get_map() else _SOON
            for key, _ in selector.select(min(pause, max(0.0, until - time.monotonic()))):
                text = texts[key.fd]
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                text += chunk[: most[key.fd] - len(text)]
                if len(text) >= _MOST_OUTPUT:
                    return Outcome.TOO_MUCH
                over = over and not chunk
            if over:
                return Outcome.ENDED
            if stop.is_set() or time.monotonic() >= until:
                return Outcome.HUNG


def _exited(popen: subprocess.Popen[bytes]) -> bool:
    try:
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else reaped it
        return True


def _end(popen: subprocess.Popen[bytes]) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    try:
        return popen.wait(_DYING)
    except subprocess.TimeoutExpired:
        threading.Thread(target=popen.wait, name="dmr-gpu-abandoned", daemon=True).start()
        return None
