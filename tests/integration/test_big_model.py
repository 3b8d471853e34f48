"""The generated model in the real server: it loads, answers, and takes the memory that was expected."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmr_adapters.package_source.gguf_metadata import gguf_metadata
from dmr_adapters.process.footprint import footprint_of
from dmr_backends_llamacpp.memory import estimate
from dmr_core.domain.artifact import Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.model import Model
from dmr_core.ports.engine import MemoryRequest
from tests.stand_ins.big_model import DEMO, Shape, write_big_model

LIMIT = 60.0
MIB = 1 << 20


def used_by(weights: Path, directory: Path, *flags: str) -> int:
    """Bytes that the server uses once it has answered a long question."""
    address, log = directory / "engine.sock", directory / "log"
    argv = [sys.executable, "-m", "dmr_backends_llamacpp.server", "-m", str(weights), "--host", str(address), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LIMIT
        while "listening on" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.01)
        client = http.client.HTTPConnection("engine")
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.settimeout(LIMIT)
        client.sock.connect(str(address))
        body = {"messages": [{"role": "user", "content": "hello world " * 200}], "max_tokens": 4}
        client.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        content = json.loads(answer.read())
        client.close()
        assert answer.status == 200, content
        assert content["usage"]["completion_tokens"] >= 1
        found = footprint_of([process.pid])
        assert found is not None
        return found.resident
    finally:
        process.kill()
        process.wait()


def expected(weights: Path, *flags: str) -> int:
    """What the plugin says of it."""
    read, digest = gguf_metadata([weights]), Digest.of(b"any")
    layer = Descriptor(media_type=LayerType.GGUF, digest=digest, size=weights.stat().st_size)
    model = Model(
        id=digest,
        tags=(),
        manifest=Manifest(config=layer, layers=(layer,)),
        config=ModelConfig(format="gguf", gguf=read.raw, context_size=read.context_size),
    )
    return estimate(MemoryRequest(model=model, config=EngineConfig(runtime_flags=flags)), ()).host


@pytest.mark.parametrize(
    ("shape", "flags"),
    [
        (None, ()),
        (Shape(layers=2), ()),
        (Shape(layers=2, context=16384), ("-c", "8192")),
        (Shape(layers=2, width=512, hidden=1024, heads=8, vocabulary=64000), ()),
        (Shape(layers=2, kind="q4_0"), ()),
    ],
    ids=["demo", "short", "context", "vocabulary", "laid-out-anew"],
)
def test_the_estimate_is_what_is_used(short_path: Path, shape: Shape | None, flags: tuple[str, ...]) -> None:
    weights = DEMO if shape is None else write_big_model(short_path / "model.gguf", shape)
    context = flags or ("-c", str(gguf_metadata([weights]).context_size))
    used, guess = used_by(weights, short_path, *context), expected(weights, *flags)
    # What it shares with other servers counts only in part, so up to 15 MiB are not its own.
    assert 0.9 * used <= guess <= 1.2 * used + 15 * MIB


def test_weights_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = write_big_model(tmp_path / "big.gguf", size=20 * MIB)
    assert 20 * MIB <= path.stat().st_size <= 20 * MIB + 40 * MIB
    assert path.read_bytes() == write_big_model(tmp_path / "again.gguf", size=20 * MIB).read_bytes()
    assert path.read_bytes() != write_big_model(tmp_path / "other.gguf", size=20 * MIB, seed=8).read_bytes()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path leaves room for a socket."""
    return tmp_path_factory.mktemp("m")
