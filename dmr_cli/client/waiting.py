"""What an engine says while it starts, shown to who waits for it.

A second connection follows the service's log from the moment that waiting gets long, and is closed with the first byte of
the answer. Whatever goes wrong with it is nobody's concern: the answer tells how things went.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from dmr_cli.client.errors import ClientError
from dmr_cli.client.terminal import clean, write

if TYPE_CHECKING:
    from dmr_cli.client.api import Api
    from dmr_cli.client.transport import Response

__all__ = ["VLLM", "engine_line", "told_by", "vllm_phase"]

PATIENCE: Final = 2.0
"""Seconds that nobody minds to wait without being told anything."""

VLLM: Final = "vllm"

_FAREWELL: Final = 1.0
_VLLM_PHASES: Final = (
    *("Resolved architecture", "Using max model len", "Initializing a V1", "Starting to load model", "Loading "),
    *("Model loading took", "Downloading", "Compiling", "torch.compile", "Warming up", "Capturing", "Graph capturing"),
    *("GPU KV cache size", "CPU KV cache size", "init engine", "Starting vLLM"),
)


@contextmanager
def told_by(api: Api, engine: str) -> Iterator[None]:
    """Show on stderr what ``engine`` prints while this is entered, from a while on."""
    follower = _Follower(api, engine)
    timer = threading.Timer(PATIENCE, follower.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        follower.stop()


class _Follower:
    def __init__(self, api: Api, engine: str) -> None:
        self._api = api
        self._engine = engine
        self._thread = threading.Thread(target=self._follow, name="engine-output", daemon=True)
        self._lock = threading.Lock()
        self._response: Response | None = None
        self._over = False

    def start(self) -> None:
        with self._lock:
            if not self._over:
                self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._over = True
            if self._response is not None:
                self._response.abort()
        if self._thread.is_alive():
            self._thread.join(_FAREWELL)

    def _follow(self) -> None:
        from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - few wait for so long

        # Lines of an earlier start may be in the log as well.
        since = (datetime.now(UTC) - timedelta(seconds=PATIENCE + 1)).strftime("%Y-%m-%dT%H:%M:%S")
        with suppress(ClientError, OSError, ValueError):
            query = {"follow": "true", "no-engines": "false"}
            response = self._api.open("GET", "/logs", query=query, headers={"Accept": "text/plain"})
            with self._lock:
                self._response = response
                if self._over:
                    response.abort()
            with response:
                if response.status != 200:
                    return
                announced = False
                for line in response.lines():
                    text = self._worth_telling(engine_line(line.decode("utf-8", "replace"), self._engine, since))
                    if text and not self._over:
                        if not announced:
                            announced = True
                            write("Waiting for the model to be ready; its engine says:\n", sys.stderr)
                        write(f"  {clean(text)}\n", sys.stderr)

    def _worth_telling(self, text: str) -> str:
        return vllm_phase(text) if self._engine == VLLM else text


def vllm_phase(text: str) -> str:
    """The part of a line of vLLM's log that tells how far its start is; empty for any other.

    Lines are ``(PROCESS pid=N) LEVEL DATE TIME [FILE:LINE] TEXT``; progress bars stand alone.
    """
    from re import sub  # noqa: PLC0415 - loaded already

    told = sub(r"^(?:\([^)]{1,64}\) )?(?:INFO \S{1,16} \S{1,16} \[[^]]{1,64}\] )?", "", text)
    return told.partition(" with config:")[0] if told.startswith(_VLLM_PHASES) else ""


def engine_line(line: str, engine: str, since: str) -> str:
    """What ``engine`` printed, if this line of the log is one of its own and not from before ``since``; else empty.

    Lines are ``[TIME] time=TIME level=LEVEL msg=TEXT engine=NAME``, the text in JSON's quotes where it needs some.
    """
    if not line.startswith("[") or line[1 : 1 + len(since)] < since or not line.endswith(f" engine={engine}"):
        return ""
    text = line.partition(" msg=")[2].removesuffix(f" engine={engine}")
    if text.startswith('"'):
        import json  # noqa: PLC0415 - loaded already

        try:
            text = str(json.loads(text))
        except ValueError:
            return text
    return text
