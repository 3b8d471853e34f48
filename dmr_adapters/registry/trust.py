"""Whom to trust about the names of registries: the system's authorities, and those an operator adds."""

from __future__ import annotations

import ssl
from pathlib import Path

from dmr_core.errors import InvalidConfigurationError

__all__ = ["trusting"]


def trusting(authorities: Path | None) -> ssl.SSLContext | None:
    """A context that trusts the certificates in ``authorities``, PEM, beside the system's; ``None`` without a file.

    Raises:
        InvalidConfigurationError: the file cannot be read, or holds no certificate.
    """
    if authorities is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=authorities)
    except ssl.SSLError as exc:  # an OSError, too
        raise InvalidConfigurationError(f"DMR_CA_CERT='{authorities}': it holds no certificate in PEM") from exc
    except OSError as exc:
        reason = exc.strerror or "it cannot be read"
        raise InvalidConfigurationError(f"DMR_CA_CERT='{authorities}': {reason.lower()}") from exc
    return context
