"""Where the certificates that the service makes for itself are kept: four files, as the reference names them.

Two services may start at once, so the files are looked at and written under a lock, each written aside and renamed. The
authority's certificate comes last: whoever reads it finds what it signed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dmr_adapters.tls.authority import LOCAL_NAMES, Identity, issue
from dmr_core.errors import InvalidConfigurationError

__all__ = ["ensure_identity"]

_MAX_FILE: Final = 64 * 1024
_FILES: Final = {
    "authority_key": ("ca.key", 0o600),
    "server_key": ("server.key", 0o600),
    "server": ("server.crt", 0o644),
    "authority": ("ca.crt", 0o644),
}


def ensure_identity(directory: Path, names: Collection[str] = ()) -> tuple[Path, Path]:
    """The server's certificate and key, for this machine's names and ``names``, made or renewed where needed.

    Raises:
        InvalidConfigurationError: the directory cannot be used; says why.
    """
    wanted, now = (*LOCAL_NAMES, *names), datetime.now(UTC)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            present = _read(directory)
            if present is None or not present.serves(wanted, now):
                _write(directory, issue(wanted, now, present))
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise InvalidConfigurationError(f"cannot keep the certificate for TLS in {directory}: {reason}") from exc
    return directory / "server.crt", directory / "server.key"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(directory: Path) -> Identity | None:
    documents = {}
    for field, (name, _) in _FILES.items():
        try:
            with (directory / name).open("rb") as file:
                documents[field] = file.read(_MAX_FILE)
        except FileNotFoundError:
            return None
    return Identity(**documents)


def _write(directory: Path, identity: Identity) -> None:
    for field, (name, mode) in _FILES.items():
        aside = directory / f".{name}.new"
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(getattr(identity, field))
            file.flush()
            os.fsync(descriptor)
        aside.replace(directory / name)
