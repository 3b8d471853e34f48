"""Settings of the service. Frozen; reads nothing: whoever starts the service fills them in."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import attrs

from dmr_core.domain.capability import Dialect
from dmr_core.domain.digest import Digest
from dmr_core.domain.keep_alive import DEFAULT_KEEP_ALIVE, KeepAlive
from dmr_core.domain.memory import MemoryBudget
from dmr_core.domain.reference import ReferencePolicy

__all__ = ["Listen", "Settings", "TlsSettings", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can connect to ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.frozen(kw_only=True)
class Listen:
    """Where the service listens: a unix socket, or a TCP host and port."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 12434

    @property
    def loopback(self) -> bool:
        """Whether nobody outside this machine can connect."""
        return self.socket is not None or is_loopback(self.host)

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class TlsSettings:
    """The listener that speaks TLS, beside the plain one. Without ``certificate`` the service makes its own.

    ``directory`` is where it keeps what it made.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int = 12444
    certificate: Path | None = None
    key: Path | None = None

    def __str__(self) -> str:
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class Settings:
    """Everything configurable. Sizes in bytes, times in seconds.

    ``strict`` refuses what an engine would ignore, for every request. ``translate`` names dialects that are translated
    even where the engine speaks them. ``trusted_code`` are models whose own code engines may run. ``environment`` is what the service was started with; a backend is handed only the
    variables its spec names. Responses are kept for ``responses_lifetime`` after their last use; 0 keeps none.
    """

    models_path: Path
    listen: Listen = attrs.field(factory=Listen)
    runtime_dir: Path | None = None
    references: ReferencePolicy = attrs.field(factory=ReferencePolicy)
    insecure_registries: frozenset[str] = frozenset()
    all_registries_insecure: bool = False
    registry_mirrors: tuple[str, ...] = ()
    docker_config: Path | None = None
    hub_endpoint: str = "https://huggingface.co"
    docker_hub: str = "https://hub.docker.com"
    ca_cert: Path | None = None
    tls: TlsSettings | None = None
    api_key_file: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_unauthenticated: bool = False
    allow_remote_media: bool = False
    log_level: str = "info"
    log_dir: Path | None = None
    metrics: bool = True
    record_requests: bool = True
    max_body: int = 10 * 1024 * 1024
    strict: bool = False
    translate: frozenset[Dialect] = frozenset()
    trusted_code: frozenset[Digest] = frozenset()
    max_runners: int = 2
    max_queue: int = 512
    queue_timeout: float = 300.0
    memory: MemoryBudget = attrs.field(factory=MemoryBudget)
    max_pulls: int = 2
    responses_lifetime: float = 30 * 86400.0
    responses_max_bytes: int = 256 * 1024 * 1024
    keep_alive: KeepAlive = DEFAULT_KEEP_ALIVE
    start_timeout: float = 600.0
    stop_grace: float = 5.0
    health_interval: float = 10.0
    disabled_plugins: frozenset[str] = frozenset()
    gpu_override: str | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    @property
    def loopback(self) -> bool:
        """Whether nobody outside this machine can connect, to whichever listener."""
        return self.listen.loopback and (self.tls is None or is_loopback(self.tls.host))
