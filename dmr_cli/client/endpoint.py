"""Where the service is: ``--host``, else ``MODEL_RUNNER_HOST``, else the port of ``dmr serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmr_cli.client.errors import InvalidInputError

__all__ = ["DEFAULT_PORT", "DEFAULT_TLS_PORT", "Endpoint", "resolve"]

DEFAULT_PORT: Final = 12434
DEFAULT_TLS_PORT: Final = 12444
_CERTIFICATE: Final = ".docker/model-runner/certs/ca.crt"
_MAX_KEY: Final = 512
_FORMS: Final = "use http://HOST[:PORT], https://HOST[:PORT], unix:///PATH or HOST:PORT"


class Endpoint:
    """One address, taken apart. ``socket_path`` is empty for TCP, ``host`` is empty for a unix socket."""

    __slots__ = ("api_key", "base_path", "ca_file", "host", "port", "socket_path", "tls", "verify")

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
        api_key: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self.base_path = base_path
        self.socket_path = socket_path
        self.tls = tls
        self.verify = verify
        self.ca_file = ca_file  # empty: whom the system trusts
        self.api_key = api_key  # empty: none is sent

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

    @property
    def is_private(self) -> bool:
        """Whether nobody but the service can read what is sent there."""
        return bool(self.socket_path) or _is_loopback(self.host) or (self.tls and self.verify)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


def resolve(host: str | None, environ: Mapping[str, str]) -> Endpoint:
    """Decide the endpoint from the ``--host`` flag and the environment.

    ``MODEL_RUNNER_TLS=true`` turns any TCP address into a TLS one that trusts
    ``MODEL_RUNNER_TLS_CA_CERT`` alone, by default the certificate a local service makes for itself.
    An address that says ``https://`` by itself trusts whom the system trusts, unless a certificate is
    named.

    The key in ``DMR_API_KEY``, or in the file ``DMR_CLIENT_KEY_FILE``, goes with every request, but not over a network in
    the clear unless ``DMR_SEND_KEY_IN_CLEAR=1`` says that the network can be trusted.

    Raises:
        InvalidInputError: the address cannot be read, or the certificate or the key is not there, or cannot be sent.
    """
    endpoint = _resolve(host, environ)
    endpoint.api_key = _api_key(environ)
    hidden = endpoint.tls or endpoint.is_private
    if endpoint.api_key and not hidden and environ.get("DMR_SEND_KEY_IN_CLEAR") != "1":
        raise InvalidInputError(
            f"the key in DMR_API_KEY would go to {endpoint.url} in the clear: use https://, or set "
            "DMR_SEND_KEY_IN_CLEAR=1 if you trust the network"
        )
    return endpoint


def _resolve(host: str | None, environ: Mapping[str, str]) -> Endpoint:
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


def _api_key(environ: Mapping[str, str]) -> str:
    key, source = environ.get("DMR_API_KEY", "").strip(), "DMR_API_KEY"
    path = environ.get("DMR_CLIENT_KEY_FILE", "")
    if not key and path:
        source = f"DMR_CLIENT_KEY_FILE={path!r}"
        try:
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib costs start-up
                key = file.read(_MAX_KEY + 2).strip()
        except OSError as error:
            raise InvalidInputError(f"{source}: {error.strerror}") from error
        if key.startswith(("#", "sha256:")):
            raise InvalidInputError(
                f"{source}: it holds a hash, which is the service's; put the key itself into a file"
            )
    if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInputError(f"{source} is no key: use what `dmr key create` printed")
    return key


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "::1"):
        return True
    numbers = host.split(".")
    return len(numbers) == 4 and numbers[0] == "127" and all(number.isdigit() for number in numbers)


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
