"""Settings of the service. Frozen; reads nothing: whoever starts the service fills them in."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import attrs

from dmr_core.domain.keep_alive import DEFAULT_KEEP_ALIVE, KeepAlive
from dmr_core.domain.memory import MemoryBudget
from dmr_core.domain.reference import ReferencePolicy

__all__ = ["Listen", "Settings"]


@attrs.frozen(kw_only=True)
class Listen:
    """Where the service listens: a unix socket, or a TCP host and port."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 12434

    @property
    def loopback(self) -> bool:
        """Whether nobody outside this machine can connect."""
        if self.socket is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class Settings:
    """Everything configurable. Sizes in bytes, times in seconds.

    ``environment`` is what the service was started with; a backend is handed only the variables its
    spec names. Responses are kept for ``responses_lifetime`` after their last use; 0 keeps none.
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
    allowed_origins: tuple[str, ...] = ()
    allow_unauthenticated: bool = False
    log_level: str = "info"
    log_dir: Path | None = None
    metrics: bool = True
    record_requests: bool = True
    max_body: int = 10 * 1024 * 1024
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
