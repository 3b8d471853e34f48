"""Memory with real models: what is shown is what is used, what cannot fit is refused, and the others go on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_adapters.process.footprint import footprint_of
from tests.e2e.conftest import Daemon
from tests.stand_ins.big_model import Shape, write_big_model

MIB = 1 << 20
SMALL = Shape(layers=2, width=256, hidden=1024, heads=8, context=1024)


def chat(daemon: Daemon, model: str) -> tuple[int, dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def running(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {entry["model_name"]: entry for entry in json.loads(daemon.cli("ps", "--json").stdout)}


def measured(pid: int) -> int:
    """What the process group of an engine uses, by our own count."""
    group = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _group(entry) == pid]
    found = footprint_of(group)
    assert found is not None
    return found.resident


def _group(entry: Path) -> int:
    try:
        stat = (entry / "stat").read_text(errors="replace")
    except OSError:
        return -1
    return int(stat[stat.rindex(")") + 2 :].split()[2])


@pytest.mark.timeout(180)
def test_two_models_show_what_they_use_and_a_third_that_cannot_fit_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    big, third = write_big_model(tmp_path / "big.gguf"), write_big_model(tmp_path / "third.gguf", Shape(layers=14))
    assert big.stat().st_size >= 290 * MIB
    daemon.environment["DMR_MAX_MEMORY"] = "420MiB"
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    daemon.cli("package", "big", "--gguf", str(big))
    daemon.cli("package", "third", "--gguf", str(third))

    assert chat(daemon, "dmr/demo")[0] == 200
    assert chat(daemon, "big")[0] == 200
    for entry in running(daemon).values():
        assert entry["memory"] == pytest.approx(measured(entry["pid"]), rel=0.1)
    assert running(daemon)["big"]["memory"] > 300 * MIB

    status, answer = chat(daemon, "third")
    assert status == 507
    error = answer["error"]
    assert error["code"] == "model_too_large"
    assert "'third' needs " in error["message"]
    assert "all runners together may have 420 MiB" in error["message"]
    asked = daemon.cli("run", "third", "Hello", check=False)
    assert asked.returncode != 0
    assert "may have 420 MiB" in asked.stderr.decode()
    assert "may have 420 MiB" in daemon.cli("why", "third").stdout.decode()

    before = {name: entry["pid"] for name, entry in running(daemon).items()}
    assert chat(daemon, "dmr/demo")[0] == chat(daemon, "big")[0] == 200
    assert {name: entry["pid"] for name, entry in running(daemon).items()} == before


@pytest.mark.timeout(120)
def test_one_that_fits_only_alone_evicts_the_idle_one(daemon: Daemon, tmp_path: Path) -> None:
    daemon.environment.update({"DMR_MAX_MEMORY": "70MiB", "DMR_MAX_RUNNERS": "4"})
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    daemon.cli("package", "other", "--gguf", str(write_big_model(tmp_path / "other.gguf", SMALL)))
    assert chat(daemon, "dmr/demo")[0] == 200
    assert chat(daemon, "other")[0] == 200
    assert list(running(daemon)) == ["other"]
    assert "to make room for 'other'" in daemon.cli("why", "dmr/demo").stdout.decode()

    # What was learnt about them outlives the service.
    daemon.stop()
    assert len(json.loads((tmp_path / "models" / ".dmr" / "footprints.json").read_text())) == 2


@pytest.mark.timeout(120)
def test_what_was_seen_under_other_arguments_of_the_operator_does_not_count(daemon: Daemon, tmp_path: Path) -> None:
    """The cache of this model takes 72 MiB in four bits, and 512 MiB in single precision."""
    shape = attrs.evolve(SMALL, heads=4, layers=4, context=64 * 1024)
    short, long = "-ctk q4_0 -ctv q4_0", "-ctk f32 -ctv f32"
    daemon.environment.update({"DMR_MAX_MEMORY": "300MiB", "LLAMA_ARGS": short})
    daemon.start()
    daemon.cli("package", "cached", "--gguf", str(write_big_model(tmp_path / "cached.gguf", shape)))
    assert chat(daemon, "cached")[0] == 200
    assert running(daemon)["cached"]["memory"] < 250 * MIB

    _restart(daemon, LLAMA_ARGS=long)
    status, answer = chat(daemon, "cached")
    assert (status, answer["error"]["code"]) == (507, "model_too_large")

    _restart(daemon, DMR_MAX_MEMORY="off")
    assert chat(daemon, "cached")[0] == 200
    assert running(daemon)["cached"]["memory"] > 512 * MIB

    _restart(daemon, DMR_MAX_MEMORY="300MiB", LLAMA_ARGS=short)
    assert chat(daemon, "cached")[0] == 200


def _restart(daemon: Daemon, **environment: str) -> None:
    daemon.stop()
    daemon.environment.update(environment)
    daemon.start()
