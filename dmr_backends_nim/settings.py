"""What an operator can set about NIM, read from the environment once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dmr_backends_nim.docker_host import DockerHost, find_docker
from dmr_core.domain.reference import Reference
from dmr_core.domain.secret import Secret
from dmr_core.errors import InvalidConfigurationError

__all__ = ["DEFAULT_PREFIX", "NimSettings"]

DEFAULT_PREFIX: Final = "nvcr.io/nim/"

_NAME: Final = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_PREFIX: Final = re.compile(rf"(?P<registry>{_NAME}(?::[0-9]{{1,5}})?)/(?:{_NAME}/)+")
_START_TIMEOUT: Final = 3600.0
_CACHE: Final = ".cache/nim"


@attrs.frozen(kw_only=True)
class NimSettings:
    """``prefix`` ends in a slash: images whose names begin with it are NIMs, and nothing else is ever started.

    ``cache`` is where weights are kept, on this machine; ``start_timeout`` in seconds. ``keep`` leaves containers running
    when the service ends. ``key`` is the service's own NGC API key, for requests that bring none.
    """

    prefix: str
    cache: Path
    docker: DockerHost
    start_timeout: float = _START_TIMEOUT
    keep: bool = True
    key: Secret | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> NimSettings:
        """The settings in ``environment``.

        Raises:
            InvalidConfigurationError: one of them cannot be; says which.
        """
        home = Path(environment.get("HOME") or "/")
        prefix = environment.get("DMR_NIM_PREFIX", "").strip() or DEFAULT_PREFIX
        prefix = prefix if prefix.endswith("/") else prefix + "/"
        match = _PREFIX.fullmatch(prefix)
        if match is None or not _is_registry(match["registry"]):
            raise InvalidConfigurationError(
                f"DMR_NIM_PREFIX={prefix!r}: use a registry and a path, such as {DEFAULT_PREFIX}"
            )
        cache = Path(environment.get("LOCAL_NIM_CACHE") or home / _CACHE)
        if not cache.is_absolute():
            raise InvalidConfigurationError(f"LOCAL_NIM_CACHE={str(cache)!r}: use an absolute path")
        on_exit = environment.get("DMR_NIM_ON_EXIT", "").strip() or "keep"
        if on_exit not in ("keep", "stop"):
            raise InvalidConfigurationError(f"DMR_NIM_ON_EXIT={on_exit!r}: use keep or stop")
        key = environment.get("NGC_API_KEY", "").strip()
        return cls(
            prefix=prefix,
            cache=cache,
            docker=find_docker(environment),
            start_timeout=_seconds(environment.get("DMR_NIM_START_TIMEOUT", "")),
            keep=on_exit == "keep",
            key=Secret(key) if key else None,
        )

    @property
    def registry(self) -> str:
        """The registry NIMs come from."""
        return self.prefix.partition("/")[0]

    def claims(self, reference: Reference) -> bool:
        """Whether ``reference`` is one of a NIM."""
        return reference.name.startswith(self.prefix)

    def has(self, name: str) -> bool:
        """Whether an image of this name, with a tag or a digest, is a NIM."""
        return name.startswith(self.prefix)


def _is_registry(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def _seconds(text: str) -> float:
    if not text.strip():
        return _START_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 7 * 24 * 3600:
        raise InvalidConfigurationError(f"DMR_NIM_START_TIMEOUT={text!r}: use a number of seconds, 1 to 604800")
    return seconds
