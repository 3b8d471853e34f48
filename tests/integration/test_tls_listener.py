"""The TLS listener beside the plain one: real sockets, real certificates, real files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.http.server import bind, bind_tls, serve
from dmr_adapters.tls.certificate_store import ensure_identity
from dmr_adapters.tls.listener import ServerTls
from dmr_core.domain.settings import Listen, TlsSettings
from dmr_core.errors import ConflictError, InvalidConfigurationError


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Tell the scheme of the request."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = f"{scope['scheme']} {scope['http_version']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(settings: TlsSettings) -> AsyncIterator[tuple[int, int]]:
    """Both listeners; their ports."""
    listener, secure, stop = bind(Listen(port=0)), bind_tls(settings), asyncio.Event()
    ports = listener.getsockname()[1], secure.socket.getsockname()[1]
    task = asyncio.ensure_future(serve(hello, listener, stop, secure))
    try:
        yield ports
    finally:
        stop.set()
        await task


async def get(port: int, context: ssl.SSLContext | None, name: str = "localhost") -> str:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name if context else None
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        await writer.wait_closed()
    return answer.rpartition("\r\n")[2]


def trusting(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "ca.crt"))


async def test_both_listeners_answer_and_the_authority_is_trusted(tmp_path: Path) -> None:
    async with serving(TlsSettings(directory=tmp_path / "certs", port=0)) as (plain, secure):
        assert await get(plain, None) == "http 1.1"
        for name in ("localhost", "127.0.0.1", "docker-model-runner"):
            assert await get(secure, trusting(tmp_path / "certs"), name) == "https 1.1"
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(secure, trusting(tmp_path / "certs"), "evil.example")
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(secure, ssl.create_default_context())


async def test_old_versions_and_plain_text_are_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with serving(TlsSettings(directory=tmp_path, port=0)) as (_, secure):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await get(secure, old)
        assert "HTTP" not in await get(secure, None)
        assert await get(secure, trusting(tmp_path)) == "https 1.1"


async def test_http2_is_not_offered(tmp_path: Path) -> None:
    async with serving(TlsSettings(directory=tmp_path, port=0)) as (_, secure):
        context = trusting(tmp_path)
        context.set_alpn_protocols(["h2", "http/1.1"])
        assert await get(secure, context) == "https 1.1"


async def test_a_given_certificate_is_used_and_taken_up_again_when_it_changes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        ensure_identity(directory)
    settings = TlsSettings(
        directory=tmp_path / "unused", port=0, certificate=first / "server.crt", key=first / "server.key"
    )
    tls = ServerTls(settings)
    assert not settings.directory.exists()
    assert _handshake(tls, trusting(first))

    # Half a pair: the old one stays.
    os.replace(second / "server.crt", first / "server.crt")
    with pytest.raises(InvalidConfigurationError, match="belong together"):
        tls.refresh()
    assert _handshake(tls, trusting(first))
    os.replace(second / "server.key", first / "server.key")
    tls.refresh()
    assert _handshake(tls, trusting(second))


def _handshake(tls: ServerTls, client: ssl.SSLContext) -> bool:
    """Whether a client that has these authorities trusts the listener; without a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    there = tls.context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [here, there]
    for _ in range(10):
        for side in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
    return not waiting


@pytest.mark.parametrize("content", ["", "no PEM", None])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    if content is not None:
        certificate.write_text(content)
        key.write_text(content)
    with pytest.raises(InvalidConfigurationError, match=r"c\.pem"):
        ServerTls(TlsSettings(directory=tmp_path, certificate=certificate, key=key))


def test_a_port_in_use_names_the_variable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConflictError, match="MODEL_RUNNER_TLS_PORT"):
            bind_tls(TlsSettings(directory=tmp_path, port=taken.getsockname()[1]))


def test_private_files_are_private_and_nothing_is_left_over(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "certs"
    previous = os.umask(0)
    try:
        ensure_identity(directory)
    finally:
        os.umask(previous)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600, ".lock": 0o600}


def test_what_is_good_is_kept_and_what_is_lost_is_made_again(tmp_path: Path) -> None:
    ensure_identity(tmp_path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    ensure_identity(tmp_path)
    assert before == {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    ensure_identity(tmp_path, ["llm.example"])
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"]
    assert (tmp_path / "server.crt").read_bytes() != before["server.crt"]
    (tmp_path / "server.key").unlink()
    ensure_identity(tmp_path)
    assert (tmp_path / "server.key").exists()


def test_services_that_start_at_once_agree(tmp_path: Path) -> None:
    code = "import pathlib, sys; from dmr_adapters.tls.certificate_store import ensure_identity as f; f(pathlib.Path(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]

    assert {process.wait(30) for process in processes} == {0}
    ServerTls(TlsSettings(directory=tmp_path, certificate=tmp_path / "server.crt", key=tmp_path / "server.key"))


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfigurationError, match="cannot keep the certificate"):
        ensure_identity(tmp_path / "file" / "certs")
