"""``make demo``: a service of its own on a temporary store, the bundled model, and a streamed answer.

Everything goes through the programs a user has: ``dmr serve`` and ``dmr run``, as child processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Final

__all__ = ["main"]

_QUESTIONS: Final = ("Hello, how are you?", "What is the capital of France?", "Count to five.", "Tell me a story.")
_START_LIMIT: Final = 60.0
_STOP_LIMIT: Final = 15.0


def main() -> int:
    """Show the demo; 0 when every answer is the documented one."""
    with tempfile.TemporaryDirectory(prefix="dmr-demo-") as scratch:
        root = Path(scratch)
        socket, log = root / "dmr.sock", root / "serve.log"
        environment = {**os.environ, "MODEL_RUNNER_HOST": f"unix://{socket}", "DMR_RUNTIME_DIR": str(root / "run")}
        serve = ["serve", "--socket", str(socket), "--models-path", str(root / "models")]
        with log.open("wb") as output:
            service = subprocess.Popen(_dmr(*serve), env=environment, stdout=output, stderr=output)
            try:
                _wait_until_ready(service, socket, log)
                return _ask(environment)
            finally:
                _stop(service)


def _ask(environment: dict[str, str]) -> int:
    documented = {entry["question"]: entry["answer"] for entry in _documented()}
    wrong = 0
    for question in _QUESTIONS:
        print(f"$ dmr run dmr/demo {question!r}", flush=True)
        command = _dmr("run", "dmr/demo", question)
        answer = bytearray()
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as asking:
            assert asking.stdout is not None
            # Unbuffered, so that the answer appears as the model writes it.
            while piece := os.read(asking.stdout.fileno(), 4096):
                answer += piece
                sys.stdout.buffer.write(piece)
                sys.stdout.flush()
        print(flush=True)
        if asking.returncode != 0 or answer.decode().strip() != documented[question]:
            print(f"expected: {documented[question]}", file=sys.stderr)
            wrong += 1
    return 1 if wrong else 0


def _documented() -> list[dict[str, str]]:
    text = (resources.files("dmr_cli.demo") / "questions.json").read_text(encoding="utf-8")
    return list(json.loads(text))


def _dmr(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dmr_cli", *arguments]


def _wait_until_ready(service: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while not socket.exists():
        if service.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the service did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)


def _stop(service: subprocess.Popen[bytes]) -> None:
    service.terminate()
    try:
        service.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()


if __name__ == "__main__":
    sys.exit(main())
