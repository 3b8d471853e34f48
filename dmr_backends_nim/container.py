"""The container of a NIM: what it is made of, what it is called, and which one that exists already will do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import Reference
from dmr_core.domain.secret import Secret

__all__ = [
    "IMAGE_LABEL",
    "REFERENCE_LABEL",
    "ROLE",
    "ROLE_LABEL",
    "USUAL_PORT",
    "ContainerPlan",
    "FoundContainer",
    "legacy_name",
]

ROLE_LABEL: Final = "dmr.role"
ROLE: Final = "nim"
IMAGE_LABEL: Final = "dmr.image"
REFERENCE_LABEL: Final = "dmr.reference"
_SETTINGS_LABEL: Final = "dmr.settings"

USUAL_PORT: Final = 8000
_PORT: Final = "8000/tcp"  # where every NIM listens
_SHM: Final = 16 * 1024**3
_CACHE_INSIDE: Final = "/opt/nim/.cache"
_KEY: Final = "NGC_API_KEY"
_LEGACY: Final = "docker-model-nim-"
_LONGEST_SLUG: Final = 80


def legacy_name(reference: Reference, prefix: str) -> str:
    """What ``docker model run`` calls the container of a NIM, whatever its tag."""
    return _LEGACY + reference.name.removeprefix(prefix).replace("/", "-")


@attrs.frozen(kw_only=True)
class ContainerPlan:
    """A container to be made of ``image``. ``name_of_image`` is what the engine knows the image by.

    ``gpu`` asks for all GPUs, by the runtime ``runtime`` where that is not empty. ``context_size`` in tokens.
    """

    image: Digest
    reference: Reference
    prefix: str
    name_of_image: str
    cache: Path
    gpu: bool = False
    runtime: str = ""
    context_size: int | None = None
    key: Secret | None = None

    @property
    def fingerprint(self) -> str:
        """Stands for all settings but the key, which nothing may be derived from that others can read."""
        settings = [str(self.image), str(self.cache), self.gpu, self.runtime, self.context_size, _SHM]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The container's name: of the model for people, of image and settings so that no two are called alike."""
        slug = self.reference.name.removeprefix(self.prefix).replace("/", "-")[:_LONGEST_SLUG]
        return f"dmr-nim-{slug}-{self.image.short}-{self.fingerprint[:8]}"

    def document(self, port: int) -> dict[str, Any]:
        """What ``POST /containers/create`` takes. ``port`` on the loopback interface; 0 is any that is free."""
        environment = []
        if self.key:
            environment.append(f"{_KEY}={self.key.reveal()}")
        if self.context_size is not None:
            environment.append(f"NIM_MAX_MODEL_LEN={self.context_size}")
        host: dict[str, Any] = {
            "ShmSize": _SHM,
            "PortBindings": {_PORT: [{"HostIp": "127.0.0.1", "HostPort": str(port) if port else ""}]},
            "Mounts": [{"Type": "bind", "Source": str(self.cache), "Target": _CACHE_INSIDE}],
        }
        if self.gpu:
            host["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
        if self.runtime:
            host["Runtime"] = self.runtime
        return {
            "Image": self.name_of_image,
            "Env": environment,
            "ExposedPorts": {_PORT: {}},
            "Labels": {
                ROLE_LABEL: ROLE,
                REFERENCE_LABEL: str(self.reference),
                IMAGE_LABEL: str(self.image),
                _SETTINGS_LABEL: self.fingerprint,
            },
            "HostConfig": host,
        }


@attrs.frozen
class FoundContainer:
    """A container as the engine describes it (``GET /containers/ID/json``); nothing in it is taken for granted."""

    document: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def id(self) -> str:
        """Its ID."""
        return str(self.document.get("Id") or "")

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document.get("Name") or "").lstrip("/")

    @property
    def image(self) -> str:
        """The ID of the image it was made of."""
        return str(self.document.get("Image") or "")

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        state = _mapping(self.document.get("State"))
        return state.get("Running") is True and state.get("Paused") is not True

    @property
    def exit_code(self) -> int:
        """Its exit status, as a shell gives it; 0 while it runs."""
        code = _mapping(self.document.get("State")).get("ExitCode")
        return code if isinstance(code, int) else 0

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel ended it for want of memory."""
        return _mapping(self.document.get("State")).get("OOMKilled") is True

    @property
    def started(self) -> str:
        """When it was started last, RFC 3339."""
        return str(_mapping(self.document.get("State")).get("StartedAt") or "")

    @property
    def port(self) -> int | None:
        """The loopback port it is reached at, once it runs."""
        return self._bound(_mapping(_mapping(self.document.get("NetworkSettings")).get("Ports")).get(_PORT))

    @property
    def ours(self) -> bool:
        """Whether dmr made it."""
        return self._label(ROLE_LABEL) == ROLE

    @property
    def adoptable(self) -> bool:
        """Whether it is published on the loopback interface and nowhere else, as the containers we make are."""
        bindings = _mapping(_mapping(self.document.get("HostConfig")).get("PortBindings"))
        return set(bindings) == {_PORT} and self._bound(bindings[_PORT], any_port=True) is not None

    def suits(self, plan: ContainerPlan) -> bool:
        """Whether it is what ``plan`` would make, but for the key."""
        return self.ours and self.image == str(plan.image) and self._label(_SETTINGS_LABEL) == plan.fingerprint

    def has_key(self, key: Secret | None) -> bool:
        """Whether it was given this key; any will do where none is asked for."""
        if not key:
            return True
        environment = _mapping(self.document.get("Config")).get("Env")
        return isinstance(environment, list) and f"{_KEY}={key.reveal()}" in environment

    @property
    def keys(self) -> tuple[Secret, ...]:
        """The keys in its environment, which its output must not show."""
        environment = _mapping(self.document.get("Config")).get("Env")
        found = environment if isinstance(environment, list) else []
        return tuple(
            Secret(one.partition("=")[2])
            for one in found
            if isinstance(one, str) and one.startswith(f"{_KEY}=") and one != f"{_KEY}="
        )

    @staticmethod
    def label_of(entry: Mapping[str, Any], name: str) -> str:
        """A label of an entry of the list of containers (``GET /containers/json``), empty where it has none."""
        return str(_mapping(entry.get("Labels")).get(name) or "")

    def _label(self, name: str) -> str:
        return str(_mapping(_mapping(self.document.get("Config")).get("Labels")).get(name) or "")

    def _bound(self, bindings: object, *, any_port: bool = False) -> int | None:
        found = bindings if isinstance(bindings, list) else []
        if not found or not all(_is_loopback(_mapping(one).get("HostIp")) for one in found):
            return None
        for one in found:
            port = str(_mapping(one).get("HostPort") or "")
            if any_port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                return int(port or 0) if port.isdigit() or not port else None
        return None


def _is_loopback(value: object) -> bool:
    try:
        return isinstance(value, str) and ip_address(value).is_loopback
    except ValueError:
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
