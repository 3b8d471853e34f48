"""The HTTP client against a service that behaves, misbehaves, or is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmr_cli.client.endpoint import resolve
from dmr_cli.client.errors import ClientError, ConnectionLostError, NotRunningError
from dmr_cli.client.transport import Transport, quote
from tests.stand_ins.canned_server import Answer, CannedServer


def _transport(url: str) -> Transport:
    return Transport(resolve(url, {}))


@contextmanager
def _raw_server(answer: bytes) -> Iterator[str]:
    """Sends these bytes to whoever connects, whatever is asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


def test_a_request_says_who_we_are_and_wants_json(server: CannedServer) -> None:
    server.on("GET", "/models", [])

    with _transport(server.url).request("GET", "/models") as response:
        assert (response.status, response.read()) == (200, b"[]")

    headers = server.requests[0].headers
    assert headers["user-agent"] == "dmr/0.1.0"
    assert headers["accept"] == "application/json"
    assert server.url.removeprefix("http://") == headers["host"]


def test_a_body_of_bytes_goes_with_its_length(server: CannedServer) -> None:
    server.on("POST", "/x", {})

    with _transport(server.url).request("POST", "/x", body=b'{"a":1}') as response:
        response.read()

    assert server.requests[0].json == {"a": 1}
    assert server.requests[0].headers["content-length"] == "7"


def test_an_iterator_is_sent_in_chunks(server: CannedServer) -> None:
    server.on("POST", "/models/load", {})

    with _transport(server.url).request("POST", "/models/load", body=iter([b"ab", b"", b"c"])) as response:
        response.read()

    assert server.requests[0].body == b"abc"
    assert server.requests[0].headers["transfer-encoding"] == "chunked"


def test_a_unix_socket_is_an_endpoint(tmp_path: Path) -> None:
    with CannedServer(tmp_path / "s") as server:
        server.on("GET", "/version", {"version": "1"})
        with _transport(server.url).request("GET", "/version") as response:
            assert response.read() == b'{"version": "1"}'
        assert server.requests[0].headers["host"] == "localhost"


def test_chunks_arrive_before_the_answer_ends(server: CannedServer) -> None:
    rest = threading.Event()
    server.on("GET", "/x", Answer(chunks=[b"one\ntw", rest, b"o\r\n\nthree"]))

    with _transport(server.url).request("GET", "/x") as response:
        lines = response.lines()
        assert next(lines) == b"one"
        rest.set()
        assert list(lines) == [b"two", b"", b"three"]


@pytest.mark.parametrize("answer", [Answer(body=b"half", cut=True), Answer(chunks=[b"half"], cut=True)])
def test_an_answer_that_ends_too_early_is_an_error(server: CannedServer, answer: Answer) -> None:
    server.on("GET", "/x", answer)

    with (
        _transport(server.url).request("GET", "/x") as response,
        pytest.raises(ConnectionLostError, match="in the middle of its answer"),
    ):
        response.read()


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    with _raw_server(b"HTTP/1.0 200 OK\r\n\r\nall of it") as url, _transport(url).request("GET", "/") as response:
        assert response.read() == b"all of it"


def test_interim_answers_are_passed_over() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX-A:  b \r\n\r\n"
    with _raw_server(answer) as url, _transport(url).request("GET", "/") as response:
        assert (response.status, response.headers["x-a"], response.read()) == (204, "b", b"")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 70000, "more than 65536 bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n", "unreadable length 'minus one'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "unreadable length 'zz'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "does not end where it said"),
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nX-Half", "in the middle of its answer"),
    ],
)
def test_an_answer_that_is_not_http_is_an_error(answer: bytes, message: str) -> None:
    def exchange(url: str) -> None:
        with _transport(url).request("GET", "/") as response:
            response.read()

    with _raw_server(answer) as url, pytest.raises(ClientError, match=message):
        exchange(url)


def test_a_longer_answer_than_allowed_is_refused(server: CannedServer) -> None:
    server.on("GET", "/x", Answer(body=b"abc"))

    with (
        _transport(server.url).request("GET", "/x") as response,
        pytest.raises(ClientError, match="longer than 2 bytes"),
    ):
        response.read(2)


def test_nobody_listening_is_said_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(NotRunningError) as caught:
        _transport(f"http://127.0.0.1:{port}").request("GET", "/")

    expected = f"cannot reach dmr at http://127.0.0.1:{port}: connection refused. Start it with: dmr serve"
    assert expected == caught.value.message


def test_a_socket_that_is_not_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError) as caught:
        _transport(f"unix://{tmp_path}/none").request("GET", "/")

    expected = f"cannot reach dmr at unix://{tmp_path}/none: there is no such socket. Start it with: dmr serve"
    assert expected == caught.value.message


def test_an_answer_to_half_an_upload_is_read() -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    with _raw_server(answer) as url, _transport(url).request("POST", "/", body=b"x" * 1000) as response:
        assert (response.status, response.read()) == (413, b"big")


def test_the_base_path_of_an_endpoint_comes_first(server: CannedServer) -> None:
    server.on("GET", "/base/models", [])

    with _transport(server.url + "/base/").request("GET", "/models") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [("a b/é", "", "a%20b%2F%C3%A9"), ("ai/x:1@sha256:0", "/:@", "ai/x:1@sha256:0"), ("?#%&", "", "%3F%23%25%26")],
)
def test_quote(text: str, keep: str, expected: str) -> None:
    assert expected == quote(text, keep)
