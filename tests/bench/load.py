"""Load on a service, from wrk and from our client of event streams, on a core of their own choosing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import attrs

from tests.bench.processes import Unavailable, on_core

__all__ = ["PATH", "Events", "Load", "Requests"]

PATH = "/v1/chat/completions"
_LINES_OF_AN_ANSWER = 101  # what the stub engine sends: 100 events and [DONE]
_PATIENCE = 30.0
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@attrs.frozen
class Requests:
    """What came of a run of wrk. Times in seconds."""

    answered: int
    seconds: float
    errors: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds


@attrs.frozen
class Events:
    """What came of a run of streams."""

    received: int
    answers: int
    errors: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.received / self.seconds


@attrs.frozen
class Load:
    """Asks services on loopback ports the same thing, from one core."""

    wrk: Path
    sse_client: Path
    script: Path
    core: int
    model: str

    def body(self, *, stream: bool) -> str:
        """The request."""
        return json.dumps(
            {
                "model": self.model,
                "messages": [
                    {"role": "system", "content": "You are helpful, and brief."},
                    {"role": "user", "content": "What is the capital of France, and how many people live there?"},
                ],
                "temperature": 0.7,
                "max_tokens": 100,
                "stream": stream,
            },
            separators=(",", ":"),
        )

    def requests(self, port: int, clients: int, seconds: float) -> Requests:
        """Keep ``clients`` connections busy with requests for whole answers."""
        self.script.write_text(_SCRIPT.format(body=self.body(stream=False)))
        command = [str(self.wrk), "-t1", f"-c{clients}", f"-d{seconds:g}s", "-s", str(self.script)]
        output = self._run([*command, f"http://127.0.0.1:{port}{PATH}"], seconds)
        words = next(line for line in output.splitlines() if line.startswith("RESULT ")).split()
        answered, microseconds, errors, p50, p99 = (int(word) for word in words[1:])
        return Requests(answered, microseconds / 1e6, errors, p50 / 1e6, p99 / 1e6)

    def events(self, port: int, streams: int, seconds: float) -> Events:
        """Keep ``streams`` streams going."""
        numbers = [str(port), str(streams), f"{seconds:g}", str(_LINES_OF_AN_ANSWER)]
        output = self._run([str(self.sse_client), *numbers, PATH, self.body(stream=True)], seconds)
        words = output.split()
        return Events(int(words[0]), int(words[2]), int(words[4]), float(words[6]))

    def _run(self, command: list[str], seconds: float) -> str:
        with on_core(self.core):
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds + _PATIENCE,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        if done.returncode:
            raise Unavailable(f"{command[0]} exited with {done.returncode}:\n{done.stderr}{done.stdout}")
        return done.stdout
