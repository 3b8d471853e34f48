"""Images that are shaped like NIMs, of a Debian base that is made once and kept outside of the checkout."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.conftest import require
from tests.stand_ins.docker_daemon import DockerDaemon

__all__ = ["debian_with_python", "nim_image"]

_BASE: Final = "dmr-tests/debian-python3"
_SERVER: Final = Path(__file__).with_name("nim_server.py")
_NOT_NEEDED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", "var/lib/apt/lists")


def debian_with_python() -> Path:
    """A tar of a Debian root with Python in it; made by ``debootstrap`` where there is none yet (a minute)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dmr-tests"
    tar = cache / "debian-python3.tar"
    if tar.exists():
        return tar
    available = shutil.which("debootstrap") is not None and os.geteuid() == 0
    require("docker", available=available, reason="debootstrap is not on PATH, or we are not root")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        root, draft = Path(scratch) / "root", Path(scratch) / "tar"
        command = ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(root)]
        made = subprocess.run(command, capture_output=True, check=False)
        require("docker", available=made.returncode == 0, reason=f"debootstrap failed: {made.stdout[-500:].decode()}")
        for name in _NOT_NEEDED:
            shutil.rmtree(root / name, ignore_errors=True)
        subprocess.run(["tar", "-C", str(root), "-cf", str(draft), "."], check=True)
        draft.rename(tar)
    return tar


def nim_image(docker: DockerDaemon, tag: str, environment: Mapping[str, str] | None = None) -> None:
    """Build the image ``tag``, which behaves as ``environment`` says; see ``nim_server.py``."""
    if f"{_BASE}:latest" not in docker.tags():
        docker.import_tar(debian_with_python(), _BASE)
    lines = [f"FROM {_BASE}:latest", *(f"ENV {name}={value}" for name, value in (environment or {}).items())]
    lines += ["RUN mkdir -p /opt/nim/.cache", "COPY server.py /opt/nim/server.py"]
    lines += ['CMD ["python3", "-u", "/opt/nim/server.py"]', "EXPOSE 8000"]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in (("Dockerfile", "\n".join(lines).encode()), ("server.py", _SERVER.read_bytes())):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    docker.build(content.getvalue(), tag)
