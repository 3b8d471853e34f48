"""The service's edges as strangers meet them: TLS, the key, pages of other origins, rebound names."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import Daemon, daemon_environment

LIMIT = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def dmr(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dmr_cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


def ask(
    daemon: Daemon, method: str, path: str, headers: Mapping[str, str], body: object = None
) -> tuple[int, Mapping[str, str], str]:
    """What any program may send, ``Host`` included."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=LIMIT)
    try:
        content = b"" if body is None else json.dumps(body).encode()
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"127.0.0.1:{daemon.port}", "Content-Length": str(len(content)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_tls_with_a_key_from_nothing_to_an_answer(daemon: Daemon) -> None:
    """Make a key, start with both, ask through TLS; nothing is open to anybody else."""
    key_file, port = daemon.root / "api-key", free_port()
    made = dmr(daemon.environment, "key", "create", str(key_file))
    key = made.stdout.strip()
    service = {
        "DMR_API_KEY_FILE": str(key_file),
        "MODEL_RUNNER_TLS_ENABLED": "true",
        "MODEL_RUNNER_TLS_PORT": str(port),
    }
    daemon.environment |= {**service, "DMR_API_KEY": key}
    daemon.start()
    client = {**daemon.environment, "MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_HOST": f"127.0.0.1:{port}"}

    assert "Model pulled successfully" in (pulled := dmr(client, "pull", "dmr/demo")).stdout + pulled.stderr
    assert "dmr/demo" in dmr(client, "list").stdout
    assert dmr(client, "run", "dmr/demo", "hello").stdout.strip()

    keyless = {name: value for name, value in client.items() if name != "DMR_API_KEY"}
    refused = dmr(keyless, "list")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "DMR_API_KEY" in refused.stderr
    stranger = dmr({**client, "HOME": str(daemon.root)}, "list")
    assert stranger.returncode != 0
    assert key not in daemon.log.read_text()

    context = ssl.create_default_context(cafile=daemon.root / "home/.docker/model-runner/certs/ca.crt")
    raw = http.client.HTTPSConnection("localhost", port, context=context, timeout=LIMIT)
    raw.request("GET", "/models", headers={"Authorization": f"Bearer {key}"})
    assert raw.getresponse().status == 200
    raw.close()

    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == ["docker.io/dmr/demo:latest"]
    with (
        openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="wrong", max_retries=0) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("text", ["", "dmr_the-key-itself"])
def test_a_service_whose_key_cannot_be_read_stays_shut(daemon: Daemon, text: str) -> None:
    (daemon.root / "key").write_text(text)
    started = dmr({**daemon.environment, "DMR_API_KEY_FILE": str(daemon.root / "key")}, "serve", "--port", "0")

    assert started.returncode == 1
    assert "DMR_API_KEY_FILE" in started.stderr
    assert "the-key-itself" not in started.stderr


def test_beyond_loopback_it_starts_with_a_key_or_when_told_twice(daemon: Daemon) -> None:
    refused = dmr(daemon.environment, "serve", "--port", "0", "--bind", "0.0.0.0")
    assert refused.returncode == 1
    assert "dmr key create" in refused.stderr

    key = dmr(daemon.environment, "key", "create", str(daemon.root / "key")).stdout.strip()
    daemon.environment |= {"DMR_API_KEY_FILE": str(daemon.root / "key"), "DMR_API_KEY": key}
    daemon.start("--bind", "0.0.0.0")
    assert ask(daemon, "GET", "/models", {})[0] == 401
    assert ask(daemon, "GET", "/models", {"Authorization": f"Bearer {key}"})[0] == 200


def test_the_unix_socket_asks_for_no_key_but_lets_in_its_user_alone(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "dmr.sock"
    dmr(daemon.environment, "key", "create", str(daemon.root / "key"))
    environment = {**daemon.environment, "DMR_API_KEY_FILE": str(daemon.root / "key")}
    command = [sys.executable, "-m", "dmr_cli", "serve", "--socket", str(path)]
    with daemon.log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        while dmr({**daemon.environment, "MODEL_RUNNER_HOST": f"unix://{path}"}, "list").returncode:
            assert process.poll() is None, daemon.log.read_text()
        assert path.stat().st_mode & 0o077 == 0
    finally:
        process.terminate()
        process.wait(LIMIT)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that runs and has the bundled model."""
    root = tmp_path_factory.mktemp("edges")
    made = Daemon(root, daemon_environment(root))
    try:
        made.start()
        made.cli("pull", "dmr/demo")
        yield made
    finally:
        made.stop()


CALLS: list[tuple[str, str, object]] = [
    ("GET", "/models", None),
    ("GET", "/v1/models", None),
    ("GET", "/engines/requests", None),
    ("GET", "/logs", None),
    ("GET", "/metrics", None),
    ("POST", "/models/create", {"from": "dmr/demo"}),
    ("POST", "/v1/chat/completions", {"model": "dmr/demo", "messages": []}),
    ("POST", "/engines/_configure", {"model": "dmr/demo"}),
    ("DELETE", "/models/dmr/demo", None),
]


def test_no_page_and_no_rebound_name_gets_through(daemon: Daemon) -> None:
    """What browsers send for a foreign page, for a rebound name, and for tags that name no origin."""
    daemon.environment |= {"DMR_ORIGINS": "https://app.example, http://dev.example:*"}
    daemon.start()
    daemon.cli("pull", "dmr/demo")
    port = daemon.port
    hostile: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost.evil.example:{port}"},
        {"Origin": "https://app.example.evil.example"},
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        {"Host": f"evil.example:{port}"},
        {"Host": f"127.0.0.1.evil.example:{port}"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ]
    for method, path, body in CALLS:
        for headers in hostile:
            for prefix in ("", "/exp/vDD4.40", "//"):
                status, answered, _ = ask(daemon, method, prefix + path, headers, body)
                assert status in (400, 403), (method, path, headers)  # 400: a Host the server itself refuses
                assert "access-control-allow-origin" not in {name.lower() for name in answered}
    assert "dmr/demo" in daemon.cli("list").stdout.decode()

    for origin in ("https://app.example", "http://dev.example:5173", "http://localhost:3000"):
        status, answered, _ = ask(daemon, "GET", "/models", {"Origin": origin})
        assert (status, answered["access-control-allow-origin"], answered["vary"]) == (200, origin, "Origin")


@pytest.mark.parametrize(
    "path",
    [
        "/models/dmr/demo",
        "/models/dmr%2Fdemo",
        "/models/dmr%2fdemo:latest",
        "//models//dmr//demo",
        "/models/dmr/demo/",
        "/models/%64mr/demo",
        "/x/%2e%2e/models/dmr/demo",
        "/x/..%2Fmodels/dmr/demo",
        "/v1/models/dmr%2Fdemo",
        "/exp/vDD4.40/models/dmr%2Fdemo",
        "/exp/vDD4.40//engines/v1/models/dmr/demo/",
    ],
)
def test_a_model_has_many_spellings_and_one_meaning(served: Daemon, path: str) -> None:
    status, _, body = ask(served, "GET", path, {})

    assert status == 200
    assert "demo" in body or "sha256:" in body


@pytest.mark.parametrize(
    "path", ["/models/..%2f..%2fetc/passwd", "/models/%00", "/models/%ff%fe", "/models/dmr%252Fdemo"]
)
def test_strange_paths_are_no_models(served: Daemon, path: str) -> None:
    assert ask(served, "GET", path, {})[0] in (400, 404)


def test_a_body_that_is_announced_as_too_large_is_refused_unread(served: Daemon) -> None:
    """The refusal comes though not a byte of the body was sent; who sends it all first gets it, too."""
    answer = b""
    with socket.create_connection(("127.0.0.1", served.port), LIMIT) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        )
        while b"request_too_large" not in answer:
            piece = connection.recv(65536)
            assert piece
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413")

    request = urllib.request.Request(f"{served.url}/v1/chat/completions", bytes(50_000_000))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=LIMIT)
    with caught.value as refused:
        assert refused.code == 413
