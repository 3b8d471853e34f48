"""Runtime flags in the hands of a real server: what the table lets through starts, all at once, and does something."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmr_backends_llamacpp.arguments import base_arguments, check_config, server_arguments
from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.model import Bundle, Model
from dmr_core.ports.engine import LaunchRequest
from dmr_core.testing.contracts.model_store import build_artifact, layer_of

WEIGHTS = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model" / "demo.gguf"
ARTIFACT = build_artifact([layer_of(b"weights")])
DEADLINE = 60.0

# One flag of every kind, and of most slots; short and long names, both forms, negative numbers, slashes in prose.
WIDE = (
    *("-c", "512", "--batch-size=256", "-ub", "128", "-np", "2", "--keep", "-1", "-n", "-1", "--swa-full", "-kvu"),
    *("-ctk", "f16", "-ctv", "f16", "-cram", "0", "--cache-prompt", "--cache-reuse", "0", "--no-context-shift", "-cb"),
    *("--rope-scaling", "none", "--rope-scale", "1", "--yarn-orig-ctx", "0", "--yarn-ext-factor", "-1"),
    *("--yarn-attn-factor", "-1", "--yarn-beta-slow", "-1", "--yarn-beta-fast", "-1", "-t", "1", "-tb", "1"),
    *(
        "--cpu-mask",
        "0xff",
        "--cpu-strict",
        "0",
        "--prio",
        "0",
        "--poll",
        "50",
        "-Crb",
        "0-7",
        "--cpu-strict-batch",
        "0",
    ),
    *("-ngl", "0", "--split-mode", "layer", "--tensor-split", "1,1", "--main-gpu", "0", "-ncmoe", "0", "-fa", "auto"),
    *("--fit", "off", "--fit-target", "512", "-fitc", "256", "-nkvo", "--no-repack", "--no-op-offload", "--perf"),
    *("--temp", "0.5", "--top-k", "40", "--top-p", ".95", "--min-p", "5e-2", "--seed", "-1", "--typical", "1"),
    *("--samplers", "top_k;temperature", "--xtc-probability", "0", "--xtc-threshold", "0.1", "--repeat-last-n", "-1"),
    *("--repeat-penalty", "1", "--presence-penalty", "-0.5", "--frequency-penalty", "0", "--dry-multiplier", "0"),
    *("--dry-base", "1.75", "--dry-allowed-length", "2", "--dry-penalty-last-n", "-1", "--dynatemp-range", "0"),
    *("--dynatemp-exp", "1", "--mirostat", "0", "--mirostat-lr", "0.1", "--mirostat-ent", "5"),
    *(
        "--jinja",
        "--chat-template-kwargs",
        '{"path": "a/b\\\\c"}',
        "--reasoning-format",
        "none",
        "--reasoning-budget=-1",
    ),
    *("--chat-template", "{% for m in messages %}{{ m.content }}/{% endfor %}\n", "--prefill-assistant"),
    *("--no-mmap", "--check-tensors", "--no-warmup", "--metrics", "--slots", "--props", "--no-webui", "-sps", "0.5"),
    *("--threads-http", "2", "--sleep-idle-seconds", "-1", "--webui-config", "{}", "--image-min-tokens", "1"),
    *("--spec-draft-n-max", "4", "--spec-draft-p-min", "0.5", "--spec-draft-prio", "0", "--spec-ngram-mod-n-max", "8"),
    *("--lora-init-without-apply", "--no-mmproj", "--no-mmproj-offload", "--pooling", "mean"),
)


class Engine:
    """A started server and how to ask it."""

    def __init__(self, address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self._address = address
        self._process = process
        self._log = log

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        client = http.client.HTTPConnection("engine")
        client.sock = socket.socket(socket.AF_UNIX)
        try:
            client.sock.settimeout(DEADLINE)
            client.sock.connect(str(self._address))
            client.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            client.close()

    def until_healthy(self) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.01)


@contextmanager
def started(directory: Path, *words: str, mode: EngineMode = EngineMode.COMPLETION) -> Iterator[Engine]:
    """The bundled server with these runtime flags, given to it as dmr gives them."""
    config = EngineConfig(runtime_flags=words)
    check_config(config, bundled=True)
    model = Model(id=ARTIFACT.id, tags=(), manifest=ARTIFACT.manifest, config=ModelConfig(format="gguf"))
    request = LaunchRequest(
        model=model, bundle=Bundle(root=WEIGHTS.parent, gguf=WEIGHTS), alias="demo", mode=mode, config=config
    )
    address, log = directory / "engine.sock", directory / "log"
    arguments = server_arguments(request, base_arguments(None), address)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dmr_backends_llamacpp.server", *arguments],
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        engine = Engine(address, process, log)
        engine.until_healthy()
        yield engine
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket, whatever the temporary directory of the run is called."""
    directory = Path(f"/tmp/dmr-flags-{os.getpid()}")
    directory.mkdir(mode=0o700)
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def test_a_wide_set_of_allowed_flags_starts_and_counts(short_path: Path) -> None:
    with started(short_path, *WIDE) as engine:
        status, properties = engine.ask("GET", "/props")
        chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        answered, answer = engine.ask("POST", "/v1/chat/completions", chat)

    assert (status, answered) == (200, 200)
    assert properties["total_slots"] == 2
    assert "{{ m.content }}/" in properties["chat_template"]
    assert properties["default_generation_settings"]["params"]["temperature"] == pytest.approx(0.5)
    assert answer["model"] == "demo"


def test_a_grammar_and_a_schema_with_slashes_reach_the_sampler(short_path: Path) -> None:
    for words, wanted in (
        (("--grammar", r'root ::= "a/b\\c"'), r"a/b\c"),
        (("--json-schema", '{"const": "x/y"}'), '"x/y"'),
    ):
        with started(short_path, *words, "--seed", "-1") as engine:
            _, answer = engine.ask("POST", "/completion", {"prompt": "Say", "n_predict": 16})
        assert answer["content"].strip() == wanted


def test_flags_that_imply_the_mode_do_not_get_in_its_way(short_path: Path) -> None:
    with started(short_path, "--embedding", "--pooling=last", mode=EngineMode.EMBEDDING) as engine:
        status, answer = engine.ask("POST", "/v1/embeddings", {"input": "Hello"})

    assert status == 200
    assert answer["data"][0]["embedding"]
