"""Settings from the environment, under the reference's names. Parsed once, all problems together.

Strings are trimmed of spaces and surrounding quotes, booleans are Go's, as the reference reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from dmr_core.domain.capability import Dialect
from dmr_core.domain.digest import Digest
from dmr_core.domain.keep_alive import DEFAULT_KEEP_ALIVE, KeepAlive
from dmr_core.domain.memory import MemoryBudget
from dmr_core.domain.naming import DEFAULT_REGISTRY
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.domain.settings import Listen, Settings, TlsSettings, is_loopback
from dmr_core.errors import DmrError, InvalidConfigurationError

__all__ = ["DEFAULT_PORT", "DEFAULT_TLS_PORT", "read_settings"]

DEFAULT_PORT: Final = 12434
DEFAULT_TLS_PORT: Final = 12444
_CERTIFICATES: Final = ".docker/model-runner/certs"
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})
_MAX_SLOTS: Final = 8
_T = TypeVar("_T")


def read_settings(environ: Mapping[str, str], *, socket_default: bool = False, **flags: object) -> Settings:
    """Settings for the service. ``flags`` are command-line values and win over the environment.

    ``socket_default`` is how the ``model-runner`` program behaves: without ``MODEL_RUNNER_PORT`` it
    listens on ``MODEL_RUNNER_SOCK``.

    Raises:
        InvalidConfigurationError: names every variable that is wrong, and what it may be.
    """
    reader = _Reader(environ, flags)
    listen = _listen(reader, socket_default=socket_default)
    tls = _tls(reader)
    local = listen.loopback and (tls is None or is_loopback(tls.host))
    keep_alive = reader.take("DMR_KEEP_ALIVE", KeepAlive.parse, DEFAULT_KEEP_ALIVE)
    cores = os.cpu_count() or 1
    settings = Settings(
        models_path=reader.path("MODELS_PATH", "models_path") or reader.home(".docker") / "models",
        listen=listen,
        runtime_dir=reader.path("DMR_RUNTIME_DIR"),
        references=ReferencePolicy(default_registry=reader.text("DEFAULT_REGISTRY") or DEFAULT_REGISTRY),
        insecure_registries=frozenset(reader.list("DMR_INSECURE_REGISTRIES")),
        all_registries_insecure=reader.text("INSECURE_REGISTRY") == "true",
        registry_mirrors=reader.list("MODEL_RUNNER_REGISTRY_MIRRORS"),
        docker_config=reader.path("DOCKER_CONFIG") or reader.home(".docker"),
        hub_endpoint=reader.take("HF_ENDPOINT", _web_address, "https://huggingface.co"),
        docker_hub=reader.take("DMR_DOCKER_HUB_URL", _web_address, "https://hub.docker.com"),
        ca_cert=reader.path("DMR_CA_CERT"),
        tls=tls,
        api_key_file=reader.path("DMR_API_KEY_FILE"),
        allowed_origins=reader.list("DMR_ORIGINS"),
        allowed_hosts=reader.list("DMR_HOSTS"),
        allow_unauthenticated=reader.flag("DMR_ALLOW_UNAUTHENTICATED", default=False),
        allow_remote_media=reader.flag("DMR_ALLOW_REMOTE_MEDIA", default=False),
        log_level=_log_level(reader),
        log_dir=reader.path("MODEL_RUNNER_LOG_DIR"),
        metrics=not reader.flag("DISABLE_METRICS", default=False),
        record_requests=reader.flag("DMR_RECORD_REQUESTS", default=local),
        max_body=reader.take("DMR_MAX_BODY", _positive, 10 * 1024 * 1024),
        trusted_code=reader.take("DMR_TRUST_CODE", _digests, frozenset()),
        strict=reader.flag("DMR_STRICT", default=False),
        translate=reader.take("DMR_TRANSLATE", _dialects, frozenset()),
        max_runners=reader.take("DMR_MAX_RUNNERS", _positive, max(2, min(cores, _MAX_SLOTS))),
        max_queue=reader.take("DMR_MAX_QUEUE", _positive, 512),
        queue_timeout=reader.take("DMR_QUEUE_TIMEOUT", _seconds, 300.0),
        memory=reader.take("DMR_MAX_MEMORY", MemoryBudget.parse, MemoryBudget()),
        max_pulls=reader.take("DMR_MAX_PULLS", _positive, 2),
        responses_lifetime=reader.take("DMR_RESPONSES_TTL", _lifetime, 30 * 86400.0),
        responses_max_bytes=reader.take("DMR_RESPONSES_MAX_BYTES", _size, 256 * 1024 * 1024),
        keep_alive=keep_alive,
        start_timeout=reader.take("DMR_START_TIMEOUT", _seconds, 600.0),
        stop_grace=reader.take("DMR_STOP_GRACE", _seconds, 5.0),
        health_interval=reader.take("DMR_HEALTH_INTERVAL", _seconds_or_never, 10.0),
        disabled_plugins=frozenset(reader.list("DMR_DISABLED_PLUGINS")),
        gpu_override=reader.text("DMR_OVERRIDE_GPU") or None,
        environment=dict(environ),
    )
    if not settings.loopback and settings.api_key_file is None and not settings.allow_unauthenticated:
        host = tls.host if tls is not None and listen.loopback else listen.host
        reader.problems.append(
            f"listening on {host!r} lets anyone who can reach it use this service: make a key with `dmr key create FILE` "
            "and set DMR_API_KEY_FILE=FILE, or set DMR_ALLOW_UNAUTHENTICATED=1 if that is meant"
        )
    reader.finish()
    return settings


def _listen(reader: _Reader, *, socket_default: bool) -> Listen:
    socket, port = reader.path("MODEL_RUNNER_SOCK", "socket"), reader.take("MODEL_RUNNER_PORT", _port, None, "port")
    host = reader.text("DMR_BIND", "bind").removeprefix("[").removesuffix("]") or "127.0.0.1"
    if reader.given("socket") or (socket is not None and port is None and not reader.given("bind")):
        return Listen(socket=socket)
    if port is None and socket_default:
        return Listen(socket=Path("model-runner.sock").absolute())
    return Listen(host=host, port=DEFAULT_PORT if port is None else port)


def _tls(reader: _Reader) -> TlsSettings | None:
    """The TLS listener, where one is wanted; a half-named certificate is made up for, as in the reference."""
    if not reader.flag("MODEL_RUNNER_TLS_ENABLED", default=False):
        return None
    certificate, key = reader.path("MODEL_RUNNER_TLS_CERT"), reader.path("MODEL_RUNNER_TLS_KEY")
    if (certificate is None) != (key is None):
        missing = "MODEL_RUNNER_TLS_KEY" if key is None else "MODEL_RUNNER_TLS_CERT"
        reader.problems.append(f"{missing} is not set: a certificate and its key go together")
    elif certificate is None and not reader.flag("MODEL_RUNNER_TLS_AUTO_CERT", default=True):
        reader.problems.append(
            "TLS enabled but no certificate provided and auto-cert is disabled: set MODEL_RUNNER_TLS_CERT and "
            "MODEL_RUNNER_TLS_KEY"
        )
    port = reader.take("MODEL_RUNNER_TLS_PORT", _port, None)
    host = reader.text("DMR_TLS_BIND") or reader.text("DMR_BIND", "bind")
    return TlsSettings(
        directory=reader.home(_CERTIFICATES),
        host=host.removeprefix("[").removesuffix("]") or "127.0.0.1",
        port=DEFAULT_TLS_PORT if port is None else port,
        certificate=certificate,
        key=key,
    )


def _log_level(reader: _Reader) -> str:
    level = reader.text("LOG_LEVEL").lower()
    return level if level in ("debug", "info", "warning", "error") else "warning" if level == "warn" else "info"


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str], flags: Mapping[str, object]) -> None:
        self._environ = environ
        self._flags = {name: value for name, value in flags.items() if value is not None}
        self.problems: list[str] = []

    def given(self, flag: str) -> bool:
        """Whether the flag was used."""
        return flag in self._flags

    def text(self, name: str, flag: str = "") -> str:
        """A value as text, ``""`` when it is not set."""
        if flag in self._flags:
            return str(self._flags[flag])
        return self._environ.get(name, "").strip().strip("\"'").strip()

    def list(self, name: str) -> tuple[str, ...]:
        """A comma-separated list."""
        return tuple(item.strip() for item in self.text(name).split(",") if item.strip())

    def path(self, name: str, flag: str = "") -> Path | None:
        """An absolute path; ``~`` is expanded."""
        text = self.text(name, flag)
        try:
            return Path(text).expanduser().absolute() if text else None
        except RuntimeError as exc:
            self.problems.append(f"{name}={text!r}: {exc}")
            return None

    def home(self, name: str) -> Path:
        """A directory in the user's home; a problem where there is none."""
        try:
            return Path.home() / name
        except RuntimeError:
            self.problems.append("HOME is not set, and nobody knows the home directory: set HOME")
            return Path(name)

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean; what cannot be read counts as not set, as in the reference."""
        text = self.text(name).lower()
        return True if text in _TRUE else False if text in _FALSE else default

    def take(self, name: str, parse: Callable[[str], _T], default: _T, flag: str = "") -> _T:
        """A parsed value, or a problem."""
        text = self.text(name, flag)
        if not text:
            return default
        try:
            return parse(text)
        except (ValueError, DmrError) as exc:
            label = f"--{flag}" if flag in self._flags else name
            # What stands before an @ in an address is a login.
            shown = re.sub(r"//[^/]*@", "//***@", text)
            self.problems.append(f"{label}={shown!r}: {exc}")
            return default

    def finish(self) -> None:
        """Fail if anything was wrong."""
        if self.problems:
            raise InvalidConfigurationError("invalid settings:\n  " + "\n  ".join(self.problems))


def _port(text: str) -> int | None:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise ValueError("a port is a number from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("expected a number of at least 1")
    return int(text)


def _size(text: str) -> int:
    budget = MemoryBudget.parse(text)
    if budget.limit is None:
        raise ValueError("expected bytes with a unit, such as 256MiB")
    return budget.limit


def _lifetime(text: str) -> float:
    try:
        days = float(text.removesuffix("d")) if text.endswith("d") else None
        seconds = KeepAlive.parse(text).seconds if days is None else days * 86400
    except (ValueError, DmrError):
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError("expected a time such as '30d', '12h' or '90m', '0' to store none, or '-1' to store for ever")
    return seconds


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in text:
        raise ValueError("expected an address such as https://hub.example.com")
    _ = parts.port  # raises where it is no number
    return text.rstrip("/")


def _dialects(text: str) -> frozenset[Dialect]:
    try:
        return frozenset(Dialect(name.strip().lower()) for name in text.split(",") if name.strip())
    except ValueError as exc:
        known = ", ".join(dialect.value for dialect in Dialect)
        raise InvalidConfigurationError(f"use some of {known}, separated by commas") from exc


def _digests(text: str) -> frozenset[Digest]:
    return frozenset(Digest.parse(item.strip()) for item in text.split(",") if item.strip())


def _seconds_or_never(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 10**6:
        raise ValueError("expected a number of seconds greater than 0")
    return value
