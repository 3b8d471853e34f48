"""The file of ``DMR_API_KEY_FILE``: the hash of the one key."""

from __future__ import annotations

from pathlib import Path

from dmr_core.domain.api_key import MAX_DOCUMENT, ApiKeyHash
from dmr_core.errors import InvalidConfigurationError

__all__ = ["read_api_key"]


def read_api_key(path: Path | None) -> ApiKeyHash | None:
    """The hash in ``path``; ``None`` where no key is wanted.

    Raises:
        InvalidConfigurationError: it cannot be read, or holds no hash. A service that cannot read it must not start:
            it would be open.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            document = file.read(MAX_DOCUMENT).decode("utf-8", "replace")
        return ApiKeyHash.parse(document)
    except OSError as exc:
        raise InvalidConfigurationError(f"DMR_API_KEY_FILE='{path}': {exc.strerror}") from exc
    except InvalidConfigurationError as exc:
        raise InvalidConfigurationError(
            f"DMR_API_KEY_FILE='{path}': {exc.message}. Make one with: dmr key create FILE"
        ) from exc
