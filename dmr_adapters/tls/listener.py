"""What the TLS listener shows its clients; it takes up a renewed certificate without a restart."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Final

from dmr_core.domain.settings import TlsSettings, is_loopback
from dmr_core.errors import DmrError, InvalidConfigurationError

__all__ = ["ServerTls"]

_log: Final = logging.getLogger("dmr.tls")
_LOOK: Final = 3600.0
"""Seconds between looks at the files: operators' tools renew weeks before the end."""


class ServerTls:
    """The context of a listener, and the files it comes from. ``hosts`` are further names it is reached by."""

    def __init__(self, settings: TlsSettings, hosts: Collection[str] = ()) -> None:
        """Read, and where none are given make, the certificate.

        Raises:
            InvalidConfigurationError: it cannot be used; says why.
        """
        self._settings = settings
        self._names = _names(settings, hosts)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._loaded: tuple[int, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Load the files if they changed; new connections see it.

        Raises:
            InvalidConfigurationError: they cannot be used; what was loaded before stays.
        """
        certificate, key = self._files()
        try:
            state = tuple(
                value for path in (certificate, key) for value in (path.stat().st_mtime_ns, path.stat().st_ino)
            )
            if state == self._loaded:
                return
            # Into a context of its own first: half a pair loaded would break the one that works.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
            self.context.load_cert_chain(certificate, key, _no_password)
        except ssl.SSLError as exc:  # an OSError, too
            raise InvalidConfigurationError(
                f"cannot use the certificate {certificate} with the key {key}: {_reason(exc)}. "
                "Both must be PEM without a password, and belong together"
            ) from exc
        except OSError as exc:
            raise InvalidConfigurationError(
                f"cannot read the certificate {certificate} or its key {key}: {exc.strerror}"
            ) from exc
        self._loaded = state

    async def keep_fresh(self) -> None:
        """Look at the files every hour, until cancelled. A bad file is logged, and the good one kept."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await asyncio.to_thread(self.refresh)
            except DmrError as exc:
                _log.error("%s", exc.message)

    def _files(self) -> tuple[Path, Path]:
        if self._settings.certificate is not None and self._settings.key is not None:
            return self._settings.certificate, self._settings.key
        # Imported here: takes a tenth of a second, and who brings a certificate needs none of it.
        from dmr_adapters.tls.certificate_store import ensure_identity  # noqa: PLC0415

        return ensure_identity(self._settings.directory, self._names)


def _names(settings: TlsSettings, hosts: Collection[str]) -> tuple[str, ...]:
    """What a certificate of ours must be for, beside the local names: nobody else calls a loopback listener."""
    if is_loopback(settings.host):
        return ()
    return tuple(dict.fromkeys(name for name in (socket.gethostname(), settings.host, *hosts) if name and name != "*"))


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    return ""


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
