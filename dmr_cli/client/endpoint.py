"""Where the service is: ``--host``, else ``MODEL_RUNNER_HOST``, else the port of ``dmr serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmr_cli.client.errors import InvalidInputError

__all__ = ["DEFAULT_PORT", "DEFAULT_TLS_PORT", "Endpoint", "resolve"]

DEFAULT_PORT: Final = 12434
DEFAULT_TLS_PORT: Final = 12444
_CERTIFICATE: Final = ".docker/model-runner/certs/ca.crt"
_FORMS: Final = "use http://HOST[:PORT], https://HOST[:PORT], unix:///PATH or HOST:PORT"


class Endpoint:
    """One address, taken apart. ``socket_path`` is empty for TCP, ``host`` is empty for a unix socket."""

    __slots__ = ("base_path", "ca_file", "host", "port", "socket_path", "tls", "verify")

    def __init__(
        self,
        *,
        host: str = "",
        port: int = 0,
        base_path: str = "",
        socket_path: str = "",
        tls: bool = False,
        verify: bool = True,
        ca_file: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self.base_path = base_path
        self.socket_path = socket_path
        self.tls = tls
        self.verify = verify
        self.ca_file = ca_file  # empty: whom the system trusts

    @property
    def authority(self) -> str:
        """What goes into the ``Host`` header."""
        if self.socket_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as people write it, without a slash at its end."""
        if self.socket_path:
            return f"unix://{self.socket_path}"
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base_path}"

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


def resolve(host: str | None, environ: Mapping[str, str]) -> Endpoint:
    """Decide the endpoint from the ``--host`` flag and the environment.

    ``MODEL_RUNNER_TLS=true`` turns any TCP address into a TLS one that trusts
    ``MODEL_RUNNER_TLS_CA_CERT`` alone, by default the certificate a local service makes for itself.
    An address that says ``https://`` by itself trusts whom the system trusts, unless a certificate is
    named.

    Raises:
        InvalidInputError: the address cannot be read, or the certificate is not there.
    """
    source, text = ("--host", host) if host is not None else ("MODEL_RUNNER_HOST", environ.get("MODEL_RUNNER_HOST", ""))
    force_tls = environ.get("MODEL_RUNNER_TLS") == "true"
    text = text.strip()
    if not text and host is not None:
        raise InvalidInputError(f"--host is empty: {_FORMS}")
    if text.startswith("unix:"):
        return _unix(text, source)
    endpoint = _tcp(text or "127.0.0.1", source, force_tls=force_tls)
    if endpoint.tls:
        endpoint.verify = environ.get("MODEL_RUNNER_TLS_SKIP_VERIFY") != "true"
        if endpoint.verify:
            endpoint.ca_file = _certificate(environ, local=force_tls)
    return endpoint


def _unix(text: str, source: str) -> Endpoint:
    path = text.removeprefix("unix://")
    if path == text or not path.startswith("/"):
        raise InvalidInputError(f"{source} {text!r} names no absolute socket path: use unix:///PATH")
    return Endpoint(socket_path=path)


def _tcp(text: str, source: str, *, force_tls: bool) -> Endpoint:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    scheme = scheme.lower()
    if scheme not in ("", "http", "https"):
        raise InvalidInputError(f"{source} {text!r} has an unknown scheme: {_FORMS}")
    authority, slash, path = rest.partition("/")
    if any(character in text for character in "@?#") or not text.isprintable() or " " in text:
        raise InvalidInputError(f"{source} {text!r} is not an address: {_FORMS}")
    host, port_text = _split_port(authority)
    if not host or (port_text and not _is_port(port_text)):
        raise InvalidInputError(f"{source} {text!r} is not an address: {_FORMS}")
    tls = force_tls or scheme == "https"
    if port_text:
        port = int(port_text)
    elif scheme:
        port = 443 if tls else 80
    else:
        port = DEFAULT_TLS_PORT if tls else DEFAULT_PORT
    return Endpoint(host=host, port=port, base_path=(slash + path).rstrip("/"), tls=tls)


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        return (host, rest.removeprefix(":")) if bracket and (not rest or rest.startswith(":")) else ("", "")
    host, _, port = authority.partition(":")
    return host, port


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def _certificate(environ: Mapping[str, str], *, local: bool) -> str:
    path = environ.get("MODEL_RUNNER_TLS_CA_CERT", "")
    if not path and local:
        import os  # noqa: PLC0415 - only TLS needs it

        path = os.path.join(os.path.expanduser("~"), _CERTIFICATE)  # noqa: PTH111, PTH118 - pathlib costs start-up
    return path
