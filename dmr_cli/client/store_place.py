"""Finding out whether the service's store is a directory that this program can write itself."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from dmr_cli.client.api import Api
from dmr_cli.client.errors import ClientError

__all__ = ["store_here"]


def store_here(api: Api) -> Path | None:
    """The root of the service's store if it is on this machine and ours to write, else ``None``.

    The service says a path; that it means the same directory here, as it need not where the service runs in a container,
    is shown by a file that is put there and that the service then sees.
    """
    endpoint = api.endpoint
    if not (endpoint.socket_path or endpoint.host in ("localhost", "::1") or _loopback(endpoint.host)):
        return None
    nonce = os.urandom(16).hex()
    said = _ask(api, nonce)
    if said is None:
        return None
    root = Path(str(said.get("root")))
    temporary = root / ".dmr" / "tmp"
    if not root.is_absolute() or not all(map(_writable, (root, temporary, root / "blobs" / "sha256"))):
        return None
    proof = temporary / f"nonce-{nonce}"
    try:
        proof.touch(0o600, exist_ok=False)
    except OSError:
        return None
    try:
        again = _ask(api, nonce)
    finally:
        with suppress(OSError):
            proof.unlink()
    return root if again is not None and again.get("present") is True else None


def _loopback(host: str) -> bool:
    return host.startswith("127.") and host.replace(".", "").isdigit()


def _writable(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _ask(api: Api, nonce: str) -> dict[str, object] | None:
    """What the service says of its store; ``None`` where it does not tell."""
    try:
        with api.open("GET", "/dmr/v1/store", query={"nonce": nonce}) as response:
            answer = json.loads(response.read(64 * 1024)) if response.status == 200 else None
    except (ClientError, ValueError):
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("root"), str) else None
