"""What goes along with requests for NIMs, where to, and where not."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import TextIO

import pytest

from dmr_cli.client.docker_login import registry_auth
from dmr_cli.client.endpoint import Endpoint
from dmr_cli.client.errors import InvalidInputError
from dmr_cli.client.nim import is_nim, load_headers, pull_headers
from dmr_cli.client.terminal import write
from dmr_cli.client.waiting import engine_line
from tests.stand_ins.canned_server import Answer, CannedServer
from tests.unit.cli.conftest import Dmr

MODEL = "nvcr.io/nim/google/gemma-3-1b-it:latest"
KEY = "nvapi-of-mine"
SUCCESS = Answer(chunks=[json.dumps({"type": "success", "message": "Model pulled successfully"}).encode() + b"\n"])


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NGC_API_KEY", KEY)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DMR_NIM_PREFIX", raising=False)
    return tmp_path


def log_in(home: Path, **config: object) -> None:
    (home / "config.json").write_text(json.dumps(config))


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def decoded(auth: str) -> object:
    return json.loads(base64.urlsafe_b64decode(auth))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (MODEL, True),
        ("NVCR.io/NIM/x", True),
        (" nvcr.io/nim/x ", True),
        ("nvcr.io/nimble/x", False),
        ("nvcr.io/nvidia/x", False),
        ("smollm2", False),
        ("evil.example/nvcr.io/nim/x", False),
    ],
)
def test_nims_are_told_by_their_names(name: str, expected: bool) -> None:
    assert is_nim(name) is expected


def test_the_prefix_can_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMR_NIM_PREFIX", "127.0.0.1:5000/nim")

    assert is_nim("127.0.0.1:5000/nim/x")
    assert not is_nim(MODEL)


PRIVATE = [
    Endpoint(socket_path="/run/dmr.sock"),
    Endpoint(host="127.0.0.1", port=1),
    Endpoint(host="127.8.8.8", port=1),
    Endpoint(host="::1", port=1),
    Endpoint(host="localhost", port=1),
    Endpoint(host="gpu.example", port=1, tls=True),
]
EXPOSED = [
    Endpoint(host="gpu.example", port=1),
    Endpoint(host="192.0.2.1", port=1),
    Endpoint(host="0.0.0.0", port=1),
    Endpoint(host="localhost.example", port=1),
    Endpoint(host="gpu.example", port=1, tls=True, verify=False),
]


@pytest.mark.parametrize("endpoint", PRIVATE, ids=str)
def test_the_key_goes_where_nobody_else_can_read_it(endpoint: Endpoint, home: Path) -> None:
    log_in(home, auths={"nvcr.io": basic("me", "pw"), "other.example": basic("not", "this")})

    assert load_headers(endpoint, MODEL) == {"X-Engine-Key": KEY}
    headers = pull_headers(endpoint, MODEL)
    assert headers.pop("X-Engine-Key") == KEY
    assert decoded(headers.pop("X-Registry-Auth")) == {"serveraddress": "nvcr.io", "username": "me", "password": "pw"}
    assert headers == {}
    assert load_headers(endpoint, "smollm2") == pull_headers(endpoint, "smollm2") == {}


@pytest.mark.parametrize("endpoint", EXPOSED, ids=str)
def test_nothing_secret_goes_anywhere_else(endpoint: Endpoint, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(home, auths={"nvcr.io": basic("me", "pw")})

    for headers in (load_headers, pull_headers):
        with pytest.raises(InvalidInputError, match="NGC_API_KEY is not sent") as raised:
            headers(endpoint, MODEL)
        assert KEY not in raised.value.message
    monkeypatch.delenv("NGC_API_KEY")
    assert pull_headers(endpoint, MODEL) == load_headers(endpoint, MODEL) == {}


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schl\u00fcssel", "k" * 5000])
def test_what_cannot_be_a_key_is_not_sent(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("NGC_API_KEY", key)

    with pytest.raises(InvalidInputError, match="copy it again") as raised:
        load_headers(PRIVATE[0], MODEL)
    assert key not in raised.value.message


def test_pull_and_run_send_them_and_nothing_else_does(server: CannedServer, dmr: Dmr) -> None:
    server.on("POST", "/models/create", SUCCESS)
    server.on("GET", "/models/" + MODEL, Answer(body=b"{}"))
    server.on(
        "GET", "/dmr/v1/plugins", Answer(body=json.dumps({"detections": [{"variant": "cuda", "devices": []}]}).encode())
    )
    server.on("POST", "/engines/v1/chat/completions", Answer(body=b""))

    assert dmr("pull", MODEL).code == 0
    done = dmr("run", "--detach", MODEL)
    assert done.code == 0
    assert "no NVIDIA GPU" in done.err
    assert "NGC_API_KEY" not in done.err

    carried = {f"{request.method} {request.path}": "x-engine-key" in request.headers for request in server.requests}
    assert carried == {
        "POST /models/create": True,
        f"GET /models/{MODEL}": False,
        "GET /dmr/v1/plugins": False,
        "POST /engines/v1/chat/completions": True,
    }
    assert server.requests[-1].headers["x-engine-key"] == KEY
    assert server.requests[-1].headers["x-preload-only"] == "true"


def test_run_says_that_there_is_no_key(server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NGC_API_KEY")
    server.on("GET", "/models/" + MODEL, Answer(body=b"{}"))
    server.on("GET", "/dmr/v1/plugins", Answer(status=500))
    server.on("POST", "/engines/v1/chat/completions", Answer(body=b""))

    done = dmr("run", "--detach", MODEL)

    assert (done.code, "NGC_API_KEY is not set" in done.err) == (0, True)


# --- logins -------------------------------------------------------------------------------------------


def helper(directory: Path, name: str, script: str) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_helper_of_the_registry_comes_before_that_of_all_and_before_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    answer = """read host; echo "{\\"Username\\": \\"NAME\\", \\"Secret\\": \\"for $host\\"}" """
    helper(home, "mine", answer.replace("NAME", "mine"))
    helper(home, "all", answer.replace("NAME", "all"))
    log_in(home, credHelpers={"nvcr.io": "mine"}, credsStore="all", auths={"a.example": basic("me", "pw")})

    assert decoded(registry_auth("nvcr.io")) == {
        "serveraddress": "nvcr.io",
        "username": "mine",
        "password": "for nvcr.io",
    }
    assert decoded(registry_auth("b.example")) == {
        "serveraddress": "b.example",
        "username": "all",
        "password": "for b.example",
    }


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '[]'", "echo '{\"Username\": 7}'", "kill -9 $$"])
def test_a_helper_that_is_broken_has_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    helper(home, "bad", script)
    log_in(home, credsStore="bad", auths={"nvcr.io": basic("me", "pw")})

    assert decoded(registry_auth("nvcr.io")) == {"serveraddress": "nvcr.io", "username": "me", "password": "pw"}


@pytest.mark.parametrize("name", ["../evil", "a b", "missing", "x;reboot"])
def test_a_helper_that_is_no_program_is_not_run(home: Path, name: str) -> None:
    log_in(home, credsStore=name)

    assert registry_auth("nvcr.io") == ""


def test_identity_tokens_and_old_spellings_of_servers(home: Path) -> None:
    log_in(
        home,
        auths={
            "https://nvcr.io/v2/": {"identitytoken": "tok"},
            "b.example": {"username": "me", "password": "pw"},
            "c.example": {"auth": "!!"},
            "d.example": 7,
        },
    )

    assert decoded(registry_auth("nvcr.io")) == {"serveraddress": "nvcr.io", "identitytoken": "tok"}
    assert decoded(registry_auth("b.example")) == {"serveraddress": "b.example", "username": "me", "password": "pw"}
    assert registry_auth("c.example") == registry_auth("d.example") == registry_auth("nowhere.example") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"auths": []}', '{"auths": null, "credHelpers": 3}'])
def test_a_file_that_cannot_be_read_has_nothing(home: Path, text: str) -> None:
    (home / "config.json").write_text(text)

    assert registry_auth("nvcr.io") == ""


# --- what is shown while a container starts -----------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[2026-11-23T10:00:01.0Z] time=x level=INFO msg=ready engine=nim", "ready"),
        ('[2026-11-23T10:00:01.0Z] time=x level=INFO msg="two words" engine=nim', "two words"),
        ('[2026-11-23T10:00:01.0Z] time=x level=INFO msg="a \\" engine=nim" engine=nim', 'a " engine=nim'),
        ("[2026-11-23T09:59:59.9Z] time=x level=INFO msg=before engine=nim", ""),
        ("[2026-11-23T10:00:01.0Z] time=x level=INFO msg=other engine=vllm", ""),
        ("[2026-11-23T10:00:01.0Z] time=x level=INFO msg=listening component=http", ""),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_only_what_the_engine_says_now_is_shown(line: str, shown: str) -> None:
    assert engine_line(line, "nim", "2026-11-23T10:00:00") == shown


def test_a_start_that_takes_long_is_followed_on_stderr(
    server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr_cli.client.waiting.PATIENCE", 0.0)
    shown = threading.Event()

    def noting(text: str, stream: TextIO) -> None:
        write(text, stream)
        if "loading shard" in text:
            shown.set()

    monkeypatch.setattr("dmr_cli.client.waiting.write", noting)
    server.on("GET", "/models/" + MODEL, Answer(body=b"{}"))
    server.on("GET", "/dmr/v1/plugins", Answer(status=500))
    line = b'[2999-11-23T10:00:01.0Z] time=x level=INFO msg="loading shard 1" engine=nim\n'
    server.on("GET", "/logs?follow=true&no-engines=false", Answer(chunks=[line]))
    server.on("POST", "/engines/v1/chat/completions", Answer(body=b"", hold=shown))

    done = dmr("run", "--detach", MODEL)

    assert (done.code, done.out) == (0, "")
    assert "its engine says:\n  loading shard 1\n" in done.err


def test_a_log_that_cannot_be_had_is_no_reason_to_fail(
    server: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmr_cli.client.waiting.PATIENCE", 0.0)
    server.on("GET", "/models/" + MODEL, Answer(body=b"{}"))
    server.on("GET", "/dmr/v1/plugins", Answer(status=500))
    server.on("GET", "/logs?follow=true&no-engines=false", Answer(status=500))
    server.on("POST", "/engines/v1/chat/completions", Answer(body=b""))

    assert dmr("run", "--detach", MODEL).code == 0
