"""What every engine promises, asked of a real process over its own endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import BackendState, EngineConfig
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import EngineExitedError, InvalidConfigurationError
from dmr_core.ports.engine import Engine, LaunchRequest, RunningEngine
from dmr_core.ports.process import ProcessSupervisor
from dmr_core.ports.transport import Endpoint
from dmr_core.testing.contracts.samples import build_artifact, layer_of

__all__ = ["EngineContract"]

_QUICK: Final = 5.0
"""Seconds in which an engine can say whether it is there, and end when it is told to."""

_PAUSE: Final = 0.02
_LONGEST_ANSWER: Final = 1 << 20


class EngineContract(ABC):
    """Subclass it, and say how to make a supervisor of real processes and your engine.

    ``patience`` is how many seconds a start may take. Weights are a file that begins as GGUF does and holds nothing more; an
    engine that reads them overrides :meth:`request`.
    """

    patience: ClassVar[float] = 60.0

    @abstractmethod
    def supervisor(self) -> AbstractAsyncContextManager[ProcessSupervisor]:
        """A supervisor that is closed at the end: ``PosixProcessSupervisor`` of ``dmr-adapters``."""

    @abstractmethod
    def engine(self, processes: ProcessSupervisor) -> Engine:
        """The engine under test; it is installed."""

    def request(self, directory: Path, alias: str) -> LaunchRequest:
        """A model to serve as ``alias``, whose files lie in ``directory``."""
        weights = directory / "model" / "model.gguf"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"GGUF")
        artifact = build_artifact([layer_of(b"GGUF")], ModelConfig(format="gguf"))
        model = Model(id=Digest.of(b"GGUF"), tags=(alias,), manifest=artifact.manifest, config=artifact.config)
        return LaunchRequest(model=model, bundle=Bundle(root=directory, gguf=weights), alias=alias)

    async def test_it_says_quickly_that_it_can_be_used(self) -> None:
        async with self.supervisor() as processes, asyncio.timeout(_QUICK):
            status = await self.engine(processes).status()
        assert status.state is BackendState.RUNNING
        assert "\n" not in str(status)

    async def test_settings_it_knows_nothing_of_are_refused(self) -> None:
        async with self.supervisor() as processes:
            engine = self.engine(processes)
            engine.check(EngineConfig())
            for config in (
                EngineConfig(runtime_flags=("--no-engine-has-this-flag",)),
                EngineConfig(sections={"no-engine-has-this-section": {"a": 1}}),
            ):
                with pytest.raises(InvalidConfigurationError):
                    engine.check(config)

    async def test_a_chat_is_answered_in_the_name_of_the_alias(self, tmp_path: Path) -> None:
        for alias in ("ai/smollm2", "registry.example:5000/a/b:Q4_K_M"):
            async with self._serving(tmp_path, alias) as (_, running):
                status, body = await self._chat(running.endpoint, alias, stream=False)
            assert status == 200, body
            answer = json.loads(body)
            assert answer["model"] == alias
            assert isinstance(answer["choices"][0]["message"]["content"], str)

    async def test_a_stream_is_events_to_its_end(self, tmp_path: Path) -> None:
        async with self._serving(tmp_path, "ai/smollm2") as (_, running):
            status, body = await self._chat(running.endpoint, "ai/smollm2", stream=True)
        assert status == 200, body
        events = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        assert {json.loads(event)["model"] for event in events} == {"ai/smollm2"}

    async def test_two_models_are_served_side_by_side(self, tmp_path: Path) -> None:
        async with self._serving(tmp_path / "a", "one") as (_, one), self._serving(tmp_path / "b", "two") as (_, two):
            assert one.endpoint != two.endpoint
            for alias, running in (("one", one), ("two", two)):
                _, body = await self._chat(running.endpoint, alias, stream=False)
                assert json.loads(body)["model"] == alias

    async def test_what_it_says_it_is_started_as_is_what_is_started(self, tmp_path: Path) -> None:
        async with self._serving(tmp_path, "ai/smollm2") as (engine, running):
            told = engine.arguments(self.request(tmp_path, "ai/smollm2"))
            words = [(word, one.changes) for one in told for word in one.words]
            if words:
                assert len(words) == len(running.argv)
            assert all(changes or word == actual for (word, changes), actual in zip(words, running.argv, strict=False))

    async def test_stopping_ends_it_and_says_so_to_who_waits(self, tmp_path: Path) -> None:
        async with self._serving(tmp_path, "ai/smollm2") as (_, running):
            waiting = asyncio.ensure_future(running.wait())
            async with asyncio.timeout(2 * _QUICK):
                await running.stop(_QUICK)
                await running.stop(_QUICK)
                assert isinstance(await waiting, EngineExitedError)
            with pytest.raises(OSError):
                await _open(running.endpoint)

    async def test_its_end_is_explained_whatever_it_printed(self) -> None:
        async with self.supervisor() as processes:
            engine = self.engine(processes)
            for tail in ("", "\x00\ufffd" * 1000, "error: " * 10_000, "Traceback (most recent call last):\n  boom"):
                failure = EngineExitedError("engine", 1, tail)
                assert isinstance(engine.explain(failure), EngineExitedError)

    async def test_where_it_computes_is_told_or_not_but_never_an_error(self, tmp_path: Path) -> None:
        async with self._serving(tmp_path, "ai/smollm2") as (_, running):
            placement = running.placement()
        assert placement is None or str(placement)

    @asynccontextmanager
    async def _serving(self, directory: Path, alias: str) -> AsyncIterator[tuple[Engine, RunningEngine]]:
        """An engine that answers its health probe, and is stopped in the end."""
        async with self.supervisor() as processes:
            engine = self.engine(processes)
            running = await engine.start(self.request(directory, alias))
            try:
                await self._healthy(engine, running)
                yield engine, running
            finally:
                await running.stop(_QUICK)

    async def _healthy(self, engine: Engine, running: RunningEngine) -> None:
        until = time.monotonic() + self.patience
        while True:
            try:
                status, _ = await _exchange(running.endpoint, f"GET {engine.health_path} HTTP/1.1")
            except (OSError, EOFError, ValueError):
                status = 0
            if status == 200:
                return
            assert time.monotonic() < until, f"not ready within {self.patience:g} s:\n{running.tail()}"
            await asyncio.sleep(_PAUSE)

    async def _chat(self, endpoint: Endpoint, alias: str, *, stream: bool) -> tuple[int, bytes]:
        body = {"model": alias, "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 8}
        return await _exchange(endpoint, "POST /v1/chat/completions HTTP/1.1", {**body, "stream": stream})


async def _open(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket is not None:
        return await asyncio.open_unix_connection(str(endpoint.socket))
    return await asyncio.open_connection("127.0.0.1", endpoint.port)


async def _exchange(endpoint: Endpoint, request: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: status, and the body as it was meant."""
    content = json.dumps(body).encode() if body is not None else b""
    head = f"{request}\r\nHost: localhost\r\nConnection: close\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    reader, writer = await _open(endpoint)
    try:
        writer.write(f"{head}\r\n".encode() + content)
        await writer.drain()
        answer = await reader.read(_LONGEST_ANSWER)
        while more := await reader.read(_LONGEST_ANSWER - len(answer)):
            answer += more
    finally:
        writer.close()
        await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n")
    headers, _, received = rest.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in headers.lower():
        received = _unchunked(received)
    return int(first.split()[1]) if first else 0, received


def _unchunked(data: bytes) -> bytes:
    """What chunks carry (RFC 9112, section 7.1)."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            break
        parts.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts)
