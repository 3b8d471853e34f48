"""A Docker Engine, and a registry that wants a login, with images that are shaped like NIMs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from tests.stand_ins.docker_daemon import DockerDaemon, docker_daemon
from tests.stand_ins.nim_images import nim_image
from tests.stand_ins.oci_registry import docker_registry

__all__ = ["KEY", "PASSWORD", "USER", "VARIANTS", "NimHub", "nim_hub"]

USER, PASSWORD = "ngc-user", "pull-secret-4711"
KEY: Final = "the-right-key-0815-xyzzy"
VARIANTS: Final = {
    "stand-in/model:1.0": {"STANDIN_MODEL": "stand-in/model"},
    "stand-in/slow:latest": {"STANDIN_MODEL": "stand-in/slow", "STANDIN_DELAY": "4"},
    "stand-in/crash:latest": {"STANDIN_CRASH": "3"},
    "stand-in/locked:latest": {
        "STANDIN_MODEL": "stand-in/locked",
        "STANDIN_KEY": hashlib.sha256(KEY.encode()).hexdigest(),
    },
}


@attrs.frozen
class NimHub:
    """A Docker Engine, and a registry with images for it."""

    docker: DockerDaemon
    registry: str

    @property
    def prefix(self) -> str:
        """``DMR_NIM_PREFIX``."""
        return f"{self.registry}/nim/"

    def name(self, image: str) -> str:
        """The reference of one of the variants."""
        return self.prefix + image

    def clear(self) -> None:
        """Leave neither a container nor an image of a NIM in the engine."""
        for container in self.docker.containers():
            self.docker.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for tag in sorted(tag for tag in self.docker.tags() if tag.startswith(self.registry)):
            self.docker.call("DELETE", f"/images/{tag}?force=1")


@contextmanager
def nim_hub() -> Iterator[NimHub]:
    """One for as long as this is entered."""
    root = Path(tempfile.mkdtemp(prefix="dmr-nim-", dir="/tmp"))
    try:
        (root / "docker").mkdir()
        (root / "registry").mkdir()
        with (
            docker_daemon(root / "docker") as docker,
            docker_registry(root / "registry", login=(USER, PASSWORD)) as kept,
        ):
            hub = NimHub(docker, kept.host)
            for image, environment in VARIANTS.items():
                nim_image(docker, hub.name(image), environment)
                docker.push(hub.name(image), USER, PASSWORD)
            yield hub
    finally:
        shutil.rmtree(root)
