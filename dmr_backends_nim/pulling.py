"""Pulling an image with the Docker Engine: whom to log in as, how far it is, and what went wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

import attrs

from dmr_backends_nim.docker_engine import DockerEngine, DockerError
from dmr_backends_nim.http_client import NoAnswerError
from dmr_backends_nim.output import hide
from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import Reference
from dmr_core.domain.secret import Login, Secret
from dmr_core.errors import (
    DmrError,
    RegistryError,
    RegistryUnreachableError,
    RemoteModelNotFoundError,
    StorageFullError,
    UnauthorizedError,
    UpstreamError,
)
from dmr_core.ports.registry import Credentials

__all__ = ["ImagePull", "find_login"]

_NGC: Final = "nvcr.io"
_NGC_USER: Final = "$oauthtoken"  # NGC's user name for API keys, in so many letters
_HEX: Final = frozenset("0123456789abcdef")

_DENIED: Final = ("unauthorized", "authentication required", "denied", "forbidden", "no basic auth credentials", " 401")
_ABSENT: Final = ("not found", "manifest unknown", "name unknown", "does not exist")
_FULL: Final = ("no space left on device",)
_UNREACHABLE: Final = (
    "dial tcp",
    "no such host",
    "timeout",
    "connection refused",
    "connection reset",
    "eof",
    "tls:",
    "x509",
)


async def find_login(
    registry: str,
    credentials: Credentials | None,
    own: Callable[[str], Awaitable[Login | None]],
    own_key: Secret | None,
) -> tuple[Login | None, str]:
    """What to log in to ``registry`` with, and whose it is.

    First what came with the request, a login before a key, then what this machine has. A key is tried with NGC's own
    registry and no other.
    """
    if credentials is not None:
        if credentials.login is not None and credentials.login.registry == registry:
            return credentials.login, "the login that came with the request"
        if credentials.engine_key and registry == _NGC:
            return Login(registry, _NGC_USER, credentials.engine_key), "the NGC_API_KEY that came with the request"
    if (login := await own(registry)) is not None:
        return login, "the login of the service's own Docker configuration"
    if own_key and registry == _NGC:
        return Login(registry, _NGC_USER, own_key), "the service's own NGC_API_KEY"
    return None, ""


@attrs.define(eq=False)
class ImagePull:
    """One pull of ``reference``, logged in as ``login``, which is ``whose``."""

    docker: DockerEngine
    reference: Reference
    login: Login | None
    whose: str
    up_to_date: bool = False
    _sizes: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    _unpacking: bool = False

    async def lines(self) -> AsyncGenerator[Progress, None]:
        """Lines of progress, without a last one that says that it worked. Closing it cancels the pull.

        Raises:
            UnauthorizedError, RemoteModelNotFoundError, RegistryUnreachableError, RegistryError: the registry's answer.
            StorageFullError: the disk of the Docker Engine is full.
        """
        try:
            async with self.docker.pull(self.reference.name, self.reference.remote, _header(self.login)) as documents:
                async for document in documents:
                    if (reason := document.get("error")) is not None:
                        raise self._failure(str(reason))
                    line = self._line(document)
                    if line is not None:
                        yield line
        except DockerError as exc:
            raise self._failure(exc.reason) from exc
        except NoAnswerError as exc:
            raise UpstreamError(
                f"the Docker Engine went away while it pulled {str(self.reference)!r}: {exc.message}. Start it and pull again"
            ) from exc

    def _line(self, document: Mapping[str, Any]) -> Progress | None:
        status, layer = str(document.get("status") or ""), str(document.get("id") or "")
        if status.startswith("Status: Image is up to date"):
            self.up_to_date = True
        detail = document.get("progressDetail")
        if status == "Downloading" and isinstance(detail, dict):
            current, size = _count(detail.get("current")), _count(detail.get("total"))
            self._sizes[layer] = (min(current, size), size)
            return self._progress(layer)
        if status in ("Download complete", "Verifying Checksum") and layer in self._sizes:
            _, size = self._sizes[layer]
            if self._sizes[layer] != (size, size):
                self._sizes[layer] = (size, size)
                return self._progress(layer)
        if status == "Extracting" and not self._unpacking and all(done == size for done, size in self._sizes.values()):
            self._unpacking = True
            return Progress(kind=ProgressKind.PROGRESS, message="Unpacking the image", mode=TransferMode.PULL)
        return None

    def _progress(self, layer: str) -> Progress | None:
        if not layer or len(layer) > 64 or not _HEX.issuperset(layer):
            return None
        current, size = self._sizes[layer]
        done, total = (sum(numbers) for numbers in zip(*self._sizes.values(), strict=True))
        return Progress(
            kind=ProgressKind.PROGRESS,
            message=f"Downloaded {done / 1e6:.2f} MB of {total / 1e6:.2f} MB",
            mode=TransferMode.PULL,
            total=total,
            # The engine tells how digests begin, and those who follow a pull tell layers apart by that.
            layer=LayerProgress(Digest(layer.ljust(64, "0")), size, current),
        )

    def _failure(self, reason: str) -> DmrError:
        secrets = () if self.login is None else (self.login.password, self.login.identity_token)
        text, name = hide(reason, secrets), str(self.reference)
        lowered = text.lower()
        if any(words in lowered for words in _DENIED):
            return UnauthorizedError(
                f"{self.reference.registry} does not let {name!r} be pulled: {text}. {self._access()}"
            )
        if any(words in lowered for words in _ABSENT):
            return RemoteModelNotFoundError(name, text)
        if any(words in lowered for words in _FULL):
            return StorageFullError(
                f"the Docker Engine cannot store {name!r}: {text}; make room with `docker system prune`"
            )
        if any(words in lowered for words in _UNREACHABLE):
            return RegistryUnreachableError(f"cannot pull {name!r}: {text}")
        return RegistryError(f"cannot pull {name!r}: {text}")

    def _access(self) -> str:
        registry = self.reference.registry
        if self.login is None:
            key = "set NGC_API_KEY, or " if registry == _NGC else ""
            return f"There was no login for it: {key}run `docker login {registry}`"
        return f"It was tried with {self.whose}: see whether that may pull this image"


def _header(login: Login | None) -> str:
    """``X-Registry-Auth``: base64url of JSON (Engine API, "Authentication")."""
    if login is None:
        return ""
    if login.identity_token:
        found = {"identitytoken": login.identity_token.reveal()}
    else:
        found = {"username": login.username, "password": login.password.reveal()}
    return base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": login.registry}).encode()).decode()


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
