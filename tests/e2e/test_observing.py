"""Figures, logs, health and reasons of a real service with real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Daemon
from tests.e2e.test_failures import GGUF, chat
from tests.stand_ins.standin_install import install_standin, reconfigure_standin

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
LINE = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\] time=\S+ level=[A-Z]+ msg=.+")


def get(daemon: Daemon, path: str) -> tuple[int, str]:
    """Status and body of a GET, errors included."""
    try:
        with urllib.request.urlopen(daemon.url + path, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def series(page: str) -> dict[tuple[str, str], float]:
    """Figures by name and model; every series of an engine must have all of its labels."""
    found = {}
    for entry in text_string_to_metric_families(page):
        for sample in entry.samples:
            if sample.name.startswith(("llamacpp:", "dmr_runner_", "dmr_scrape_")):
                assert sample.labels.keys() >= {"backend", "model", "mode"}
                assert (sample.labels["backend"], sample.labels["mode"]) == ("llama.cpp", "completion")
            found[sample.name, sample.labels.get("model", "")] = sample.value
    return found


def test_the_page_with_none_one_and_three_runners_one_of_them_hung(daemon: Daemon) -> None:
    program = install_standin(daemon.root / "engine")
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    daemon.environment["DMR_MAX_RUNNERS"] = "3"
    daemon.start()
    for number in (1, 2, 3):
        daemon.cli("package", f"my/m{number}", "--gguf", str(GGUF), "--context-size", str(64 * number))

    status, page = get(daemon, "/metrics")
    assert (status, page.endswith("# No active runners\n")) == (200, True)
    assert series(page)["dmr_build_info", ""] == 1

    assert chat(daemon, "hi", "my/m1")[0] == 200
    found = series(get(daemon, "/metrics")[1])
    assert found["llamacpp:requests_total", "my/m1"] >= 1
    assert found["dmr_scrape_up", "my/m1"] == 1

    assert chat(daemon, "hi", "my/m2")[0] == 200
    reconfigure_standin(program, hang_metrics=True)
    assert chat(daemon, "hi", "my/m3")[0] == 200
    began = time.monotonic()
    page = get(daemon, "/metrics")[1]
    took = time.monotonic() - began
    found = series(page)
    assert took < 1.0
    assert {"my/m1", "my/m2"} == {model for name, model in found if name == "llamacpp:requests_total"}
    assert [1, 1, 0] == [found["dmr_scrape_up", f"my/m{number}"] for number in (1, 2, 3)]
    assert [0, 0, 1] == [found["dmr_scrape_errors_total", f"my/m{number}"] for number in (1, 2, 3)]
    assert chat(daemon, "still there?", "my/m3")[0] == 200


def test_the_real_engines_figures_are_the_documented_ones(daemon: Daemon) -> None:
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    assert chat(daemon, "hi")[0] == 200
    page = get(daemon, "/metrics")[1]

    shown = dict(re.findall(r"^# TYPE (llamacpp:\S+) (\S+)$", page, re.MULTILINE))
    assert shown == dict(re.findall(r"^\| `(llamacpp:\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE))
    assert series(page)["llamacpp:tokens_predicted_total", "dmr/demo"] > 0
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert set(re.findall(r"^# TYPE ((?:dmr|process)_\S+) ", page, re.MULTILINE)) == documented


def test_logs_show_the_service_and_its_engines_and_end_with_them(daemon: Daemon) -> None:
    program = install_standin(daemon.root / "engine", message="loaded with --api-key very-secret-key")
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    daemon.environment["LOG_LEVEL"] = "warning"
    daemon.environment["MODEL_RUNNER_LOG_DIR"] = str(daemon.root / "logs")
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    command = [sys.executable, "-m", "dmr_cli", "--host", daemon.url, "logs", "--follow"]
    following = subprocess.Popen(command, env=daemon.environment, stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(following.stdout or ()))
    reading.start()
    assert chat(daemon, "hi")[0] == 200

    printed = daemon.cli("logs").stdout.decode()
    assert all(LINE.fullmatch(line) for line in printed.splitlines())
    assert "standin: listening" in printed
    assert "very-secret-key" not in printed
    assert "engine=llama" not in daemon.cli("logs", "--no-engines").stdout.decode()
    assert "standin: listening" not in daemon.log.read_text()
    assert get(daemon, "/logs?follow=maybe")[0] == 400

    began = time.monotonic()
    daemon.stop()
    assert following.wait(10) == 0
    assert time.monotonic() - began < 5.0
    reading.join()
    following.stdout.close()
    assert any("standin: listening" in line for line in lines)
    assert "standin: listening" in (daemon.root / "logs" / "inference-llama.cpp-server.log").read_text()


def test_ready_tells_the_truth_about_the_store_and_the_engine(daemon: Daemon) -> None:
    program = install_standin(daemon.root / "engine")
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    daemon.start()
    assert get(daemon, "/healthz") == (200, "ok\n")
    assert get(daemon, "/readyz")[0] == 200

    temporary = daemon.root / "models" / ".dmr" / "tmp"
    temporary.rename(temporary.with_name("elsewhere"))
    status, body = get(daemon, "/readyz")
    assert status == 503
    assert "cannot write to" in json.loads(body)["checks"]["store"]
    temporary.with_name("elsewhere").rename(temporary)
    assert get(daemon, "/readyz")[0] == 200

    program.unlink()
    deadline = time.monotonic() + 5
    while (answer := get(daemon, "/readyz"))[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer[0] == 503
    assert json.loads(answer[1])["checks"]["backend"].startswith("llama.cpp: ")
    assert get(daemon, "/healthz")[0] == 200


def test_why_says_what_became_of_a_model(daemon: Daemon) -> None:
    program = install_standin(daemon.root / "engine")
    daemon.environment["LLAMA_SERVER_PATH"] = str(program.parent)
    daemon.environment["DMR_MAX_RUNNERS"] = "1"
    daemon.start()
    missing = daemon.cli("why", "dmr/demo", check=False)
    assert (missing.returncode, b"dmr pull dmr/demo" in missing.stdout) == (3, True)
    daemon.cli("pull", "dmr/demo")
    daemon.cli("package", "my/other", "--gguf", str(GGUF), "--context-size", "64")
    assert b"nobody asked for it" in daemon.cli("why", "dmr/demo").stdout
    chat(daemon, "hi")
    assert b"It is in memory on llama.cpp, for completion" in daemon.cli("why", "dmr/demo").stdout
    chat(daemon, "hi", "my/other")
    assert b"to make room for 'my/other'" in daemon.cli("why", "dmr/demo").stdout
    reconfigure_standin(program, exit_code=3)
    assert chat(daemon, "hi")[0] != 200
    found = json.loads(daemon.cli("why", "dmr/demo", "--json").stdout)
    assert found["state"] == "failing"
    assert re.match(r"It failed once, last .* ago: .*exited with status 3", found["sentences"][0])
