"""Real failures of real engines, each with its own code, cause and next step."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import struct
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import attrs
import pytest

import dmr_cli.demo
from dmr_adapters.clock import SystemClock
from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_adapters.transport import stream_transport
from dmr_adapters.transport.stream_transport import StreamTransport
from dmr_backends_llamacpp.engine import LlamaCppEngine
from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import EngineExitedError
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import LaunchRequest
from dmr_core.services.watching import HealthProbe, WatchedEngine, explained
from dmr_core.testing.contracts.model_store import build_artifact, layer_of
from tests.stand_ins.standin_install import install_standin

DEADLINE = 30.0
DEMO = Path(dmr_cli.demo.__file__).parent / "model" / "demo.gguf"
SERVER = f"exec {shlex.quote(sys.executable)} -m dmr_backends_llamacpp.server"
FIRST_TENSOR = b"token_embd.weight"


@attrs.frozen
class World:
    supervisor: PosixProcessSupervisor
    root: Path

    def model(self, change: Callable[[bytes], bytes]) -> Path:
        """The demo model, changed."""
        path = self.root / "model.gguf"
        path.write_bytes(change(DEMO.read_bytes()))
        return path

    def program(self, script: str, mode: int = 0o755) -> Path:
        """A ``llama-server`` that is this script of a shell; whatever it is given is in ``$@``."""
        path = self.root / "llama-server"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return path

    def request(self, gguf: Path) -> LaunchRequest:
        """A start with this file."""
        artifact = build_artifact([layer_of(b"x")], ModelConfig(format="gguf"))
        model = Model(id=artifact.id, tags=(), manifest=artifact.manifest, config=artifact.config)
        return LaunchRequest(model=model, bundle=Bundle(root=self.root, gguf=gguf), alias="broken")

    async def failure(self, gguf: Path = DEMO, program: Path | None = None, kill: int = 0) -> EngineExitedError:
        """How a start ends, as dmr explains it; ``kill`` is a signal that is sent once the engine is there."""
        environment = {"LLAMA_SERVER_PATH": str(program)} if program is not None else {"PATH": os.defpath}
        engine = LlamaCppEngine.create(EngineContext(processes=self.supervisor, environment=environment))
        try:
            running = await engine.start(self.request(gguf))
        except EngineExitedError as exc:
            return explained(engine, exc)
        async with asyncio.timeout(DEADLINE):
            if kill:
                assert running.pid is not None
                os.kill(running.pid, kill)
            ended = await running.wait()
            await running.stop(1.0)
        return explained(engine, ended)


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    # A short path: sockets are made in it.
    with tempfile.TemporaryDirectory(prefix="dmr-") as directory:
        root = Path(directory)
        (root / "run").mkdir(mode=0o700)
        async with await PosixProcessSupervisor.open(root / "run") as supervisor:
            yield World(supervisor, root)


def _version(number: int) -> Callable[[bytes], bytes]:
    return lambda gguf: gguf[:4] + struct.pack("<I", number) + gguf[8:]


def _strange_quantisation(gguf: bytes) -> bytes:
    """Of the first tensor: its name is followed by the number of its dimensions, those, and its type."""
    dimensions = gguf.index(FIRST_TENSOR) + len(FIRST_TENSOR)
    kind = dimensions + 4 + 8 * struct.unpack_from("<I", gguf, dimensions)[0]
    return gguf[:kind] + struct.pack("<I", 99) + gguf[kind + 4 :]


@pytest.mark.parametrize(
    ("change", "code", "cause"),
    [
        (lambda gguf: gguf[: len(gguf) // 2], "model_corrupt", "cut off or damaged (tensor '"),
        (lambda gguf: gguf[:2000], "model_corrupt", "cut off or damaged (key-value pairs)"),
        (lambda gguf: b"XXXX" + gguf[4:], "model_corrupt", "damaged or no GGUF file at all"),
        (lambda _gguf: b"", "model_corrupt", "damaged or no GGUF file at all"),
        (
            lambda gguf: gguf.replace(b"blk.0.attn_q.weight", b"blk.0.attn_z.weight", 1),
            "model_corrupt",
            "tensor 'blk.0.attn_q.weight' is missing",
        ),
        (
            lambda gguf: gguf.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0zzzzz", 1),
            "engine_version",
            "does not know its architecture 'zzzzz'",
        ),
        (_version(9), "engine_version", "GGUF version 9, and this llama.cpp reads up to version"),
        (_version(1), "engine_version", "its file is GGUFv1"),
        (_strange_quantisation, "engine_version", "(type 99) of its tensor 'token_embd.weight'"),
        (lambda gguf: gguf.replace(b"gpt2", b"gpt9", 1), "engine_version", "its tokenizer 'gpt9'"),
    ],
    ids=["half", "header", "magic", "empty", "tensor", "architecture", "future", "past", "quantisation", "tokenizer"],
)
async def test_a_model_that_cannot_be_loaded(
    world: World, change: Callable[[bytes], bytes], code: str, cause: str
) -> None:
    found = await world.failure(world.model(change))

    assert (found.code, found.returncode) == (code, 1)
    assert found.cause.startswith("failed to load model: ")
    assert cause in found.cause
    assert found.remedy
    assert found.tail in found.message


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        (f'{SERVER} "$@" --bad-flag 3', "engine_bad_flag", "this llama.cpp does not know the flag --bad-flag"),
        (f'{SERVER} "$@" --ctx-size abc', "engine_bad_flag", "llama.cpp refused the flag --ctx-size: expected"),
        (
            f'ulimit -v 1200000; {SERVER} "$@" --ctx-size 40000000',
            "engine_out_of_memory",
            "not enough memory to load the model",
        ),
        (
            "echo './s: error while loading shared libraries: libcuda.so.1: cannot open shared object file' >&2; exit 127",
            "engine_unusable",
            "the shared library libcuda.so.1 is missing",
        ),
        ("kill -ILL $$", "engine_unusable", "built for another processor"),
        ("kill -SEGV $$", "engine_crashed", "signal 11 (SIGSEGV)"),
        ("sh -c 'kill -ABRT $$'; exit $?", "engine_crashed", "signal 6 (SIGABRT)"),
        ("exit 3", "engine_exited", ""),
    ],
    ids=["flag", "value", "memory", "library", "cpu", "segv", "abort in a wrapper", "unknown"],
)
async def test_a_program_that_ends_at_once(world: World, script: str, code: str, cause: str) -> None:
    found = await world.failure(program=world.program(script))

    assert found.code == code, found.message
    assert cause in found.cause
    assert bool(found.remedy) == bool(cause)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, "engine_killed"), (signal.SIGSEGV, "engine_crashed")])
async def test_an_engine_that_is_shot(world: World, number: int, code: str) -> None:
    found = await world.failure(program=world.program("exec sleep 1000"), kill=number)

    assert (found.code, found.returncode) == (code, -number)
    assert f"was killed by signal {number:d}" in found.cause


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(57), 0o755, "Exec format error"),
        (b"#!/no/such/interpreter\n", 0o755, "No such file or directory"),
        (b"#!/bin/sh\n", 0o644, "Permission denied"),
    ],
)
async def test_a_file_that_is_no_program_here(world: World, content: bytes, mode: int, reason: str) -> None:
    program = world.root / "llama-server"
    program.write_bytes(content)
    program.chmod(mode)
    found = await world.failure(program=program)

    assert found.code == "engine_unusable"
    assert found.cause == f"cannot start 'llama.cpp': {str(program)!r}: {reason}"
    assert found.remedy


@pytest.mark.parametrize("how", ["deaf", "unlinked"])
async def test_an_engine_that_lives_but_answers_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stream_transport, "_IDLE_LIMIT", 0.0)  # as when nobody asked for a while
    program = install_standin(world.root / "engine")
    transport = StreamTransport()
    engine = LlamaCppEngine.create(
        EngineContext(processes=world.supervisor, environment={"LLAMA_SERVER_PATH": str(program)})
    )
    watched = WatchedEngine(
        engine=await engine.start(world.request(DEMO)),
        kind=engine,
        backend="llama.cpp",
        transport=transport,
        clock=SystemClock(),
        interval=0.05,
    )
    probe = HealthProbe(transport, watched.endpoint, engine.health_path)
    async with asyncio.timeout(DEADLINE):
        while not await probe.healthy(1.0):
            await asyncio.sleep(0.01)
        watched.watch()
        waiting = asyncio.create_task(watched.wait())
        await asyncio.sleep(0.5)
        assert not waiting.done()

        assert watched.pid is not None
        assert watched.endpoint.socket is not None
        if how == "deaf":
            os.kill(watched.pid, signal.SIGSTOP)
        else:
            watched.endpoint.socket.unlink()
        ended = await waiting
        await watched.stop(0.1)
    await transport.aclose()
    assert ended.code == "engine_unresponsive"
    assert "standin: listening" in ended.tail
