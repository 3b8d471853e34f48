"""What people are told when an engine fails: its own code over HTTP, cause and next step in ``dmr run``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon
from tests.e2e.test_failures import chat, engine, serving_starts
from tests.stand_ins.standin_install import reconfigure_standin

__all__ = ["engine"]

SERVER = f"exec {shlex.quote(sys.executable)} -m dmr_backends_llamacpp.server"

MODEL_AND_HOST = 'while [ $# -gt 0 ]; do case "$1" in --model) model=$2;; --host) host=$2;; esac; shift; done'


@pytest.mark.parametrize(
    ("script", "status", "code", "said"),
    [
        (None, 412, "backend_not_installed", ["is not installed", "LLAMA_SERVER_PATH"]),
        ("kill -ILL $$", 412, "engine_unusable", ["built for another processor", "Install a build for this CPU"]),
        (
            "echo \"llama_model_load: error loading model: unknown model architecture: 'new'\" >&2; exit 1",
            412,
            "engine_version",
            ["does not know its architecture 'new'", "Update llama.cpp"],
        ),
        (f'{SERVER} "$@" --bad-flag 3', 400, "engine_bad_flag", ["does not know the flag --bad-flag", "dmr configure"]),
        (
            f'{MODEL_AND_HOST}; head -c 4000 "$model" > "$0.cut"; {SERVER} --model "$0.cut" --host "$host"',
            422,
            "model_corrupt",
            ["its file is cut off or damaged", "dmr pull"],
        ),
        (
            "echo 'allocating 4437.80 MiB on device 0: cudaMalloc failed: out of memory' >&2; exit 1",
            507,
            "engine_out_of_memory",
            ["not enough GPU memory to load the model (CUDA)", "dmr ps"],
        ),
        ("kill -KILL $$", 502, "engine_killed", ["was killed by signal 9 (SIGKILL)", "dmesg"]),
        ("kill -SEGV $$", 502, "engine_crashed", ["was killed by signal 11 (SIGSEGV)", "report it"]),
    ],
    ids=["missing", "cpu", "version", "flag", "corrupt", "memory", "killed", "crashed"],
)
def test_each_failure_has_a_code_a_cause_and_a_next_step(
    daemon: Daemon, script: str | None, status: int, code: str, said: list[str]
) -> None:
    directory = daemon.root / "engine"
    directory.mkdir()
    if script is not None:
        program = directory / "llama-server"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    daemon.environment["LLAMA_SERVER_PATH"] = str(directory)
    daemon.start()
    daemon.cli("pull", "dmr/demo")

    answered, text = chat(daemon, "hi")
    error = json.loads(text)["error"]
    assert (answered, error["code"]) == (status, code), text
    if script is not None:
        assert error["message"].startswith("unable to load runner: ")

    done = daemon.cli("run", "dmr/demo", "hi", check=False)
    told = done.stderr.decode()
    assert done.returncode != 0
    assert done.stdout == b""
    assert "Traceback" not in told
    for words in said:
        assert words in error["message"]
        assert words in told


def test_run_shows_the_end_of_a_long_output_and_debug_shows_all(daemon: Daemon, engine: Path) -> None:
    lines = "\n".join(f"line {number}" for number in range(100))
    reconfigure_standin(engine, message=lines, exit_code=3)
    told = daemon.cli("run", "dmr/demo", "hi", check=False).stderr.decode()
    everything = daemon.cli("--debug", "run", "dmr/demo", "hi", check=False).stderr.decode()

    assert "  | line 99" in told
    assert "line 50" not in told
    assert "more with --debug" in told
    assert "line 1\n" in everything


def test_an_engine_that_lives_but_answers_no_more_is_found_and_replaced(daemon: Daemon, engine: Path) -> None:
    daemon.stop()
    daemon.environment["DMR_HEALTH_INTERVAL"] = "0.2"
    daemon.environment["DMR_STOP_GRACE"] = "0.5"
    daemon.start()
    assert chat(daemon, "hi")[0] == 200
    os.kill(serving_starts(daemon)[-1]["pid"], signal.SIGSTOP)  # it accepts connections, as the kernel does that
    began = time.monotonic()
    status, text = chat(daemon, "in flight")

    assert (status, json.loads(text)["error"]["code"]) == (502, "engine_unresponsive"), text
    assert time.monotonic() - began < 10
    status, text = chat(daemon, "again")
    assert status == 200, text
    assert len(serving_starts(daemon)) == 2
