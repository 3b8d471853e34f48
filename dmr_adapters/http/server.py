"""Listening, on Hypercorn.

The socket is bound here, before anything else is built, so that a port in use is a clear error at
once; Hypercorn gets it as a file descriptor.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import attrs
from starlette.types import ASGIApp

from dmr_adapters.tls.listener import ServerTls
from dmr_core.domain.settings import Listen, TlsSettings
from dmr_core.errors import ConflictError, InvalidConfigurationError

__all__ = ["TlsListener", "bind", "bind_tls", "serve"]

_BACKLOG: Final = 512
_KEEP_ALIVE_TIMEOUT: Final = 75.0
_GRACE: Final = 3.0
_HANDSHAKE_TIMEOUT: Final = 10.0


def bind(listen: Listen) -> socket.socket:
    """A listening socket.

    Raises:
        ConflictError: somebody listens there already.
        InvalidConfigurationError: the address cannot be used; says why.
    """
    return _bind_unix(listen.socket) if listen.socket is not None else _bind_tcp(listen.host, listen.port)


def bind_tls(settings: TlsSettings, hosts: Collection[str] = ()) -> TlsListener:
    """The listener for TLS, with its certificate read, or made; ``hosts`` are further names it is reached by.

    Raises:
        ConflictError: somebody listens there already.
        InvalidConfigurationError: the address or the certificate cannot be used; says why.
    """
    tls = ServerTls(settings, hosts)
    return TlsListener(_bind_tcp(settings.host, settings.port, setting="MODEL_RUNNER_TLS_PORT"), tls)


@attrs.frozen
class TlsListener:
    """A bound socket on which TLS is spoken."""

    socket: socket.socket
    tls: ServerTls


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event, secure: TlsListener | None = None) -> None:
    """Answer requests until ``stop`` is set, then let those under way end within a few seconds."""
    from hypercorn.asyncio import serve as hypercorn_serve  # noqa: PLC0415 - takes 0.1 s
    from hypercorn.config import Config  # noqa: PLC0415

    from dmr_adapters.http.connection import use_connection  # noqa: PLC0415

    use_connection()
    config = Config()
    # Hypercorn owns the descriptors from here, and closes them.
    config.bind = [f"fd://{listener.detach()}"]
    if secure is not None:
        # To Hypercorn a service with TLS has TLS on what it binds, and plain listeners beside it.
        config.bind, config.insecure_bind = [f"fd://{secure.socket.detach()}"], config.bind
        config.certfile = config.keyfile = "given"  # only says that there is TLS: the context is made already
        setattr(config, "create_ssl_context", lambda: secure.tls.context)  # noqa: B010 - no setting for it
        config.ssl_handshake_timeout = _HANDSHAKE_TIMEOUT
    config.accesslog = None
    config.errorlog = logging.getLogger("dmr.http.server")
    config.include_server_header = False
    config.include_date_header = True
    config.alpn_protocols = ["http/1.1"]
    config.keep_alive_timeout = _KEEP_ALIVE_TIMEOUT
    config.keep_alive_max_requests = 10**9
    config.graceful_timeout = _GRACE
    config.backlog = _BACKLOG
    fresh = asyncio.ensure_future(secure.tls.keep_fresh()) if secure is not None else None
    try:
        await hypercorn_serve(_typed(app), config, shutdown_trigger=_trigger(stop))
    finally:
        if fresh is not None:
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)


def _typed(app: ASGIApp) -> Any:
    """Starlette's and Hypercorn's types of one and the same interface do not know each other."""
    return app


def _trigger(stop: asyncio.Event) -> Any:
    async def wait() -> None:
        await stop.wait()

    return wait


def _bind_tcp(host: str, port: int, setting: str = "--port") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"port {port} on {host} is in use: is dmr running already? Stop it, or choose another with {setting}"
            ) from exc
        raise InvalidConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    except OverflowError as exc:
        listener.close()
        raise InvalidConfigurationError(f"cannot listen on port {port}: {exc}") from exc
    listener.setblocking(False)
    return listener


def _bind_unix(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only this user may connect: whoever can reach the socket can use every model.
        previous = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise InvalidConfigurationError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody answers on any more; one that a live daemon owns is left alone."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidConfigurationError(f"cannot listen on {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as exc:
            raise InvalidConfigurationError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    raise ConflictError(f"{path} is in use: is dmr running already? Stop it, or choose another with --socket")
