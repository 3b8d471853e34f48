"""What dmr knows of its engines beyond what every service of the reference tells."""

from __future__ import annotations

from typing import Any

from dmr_cli.client.api import Api
from dmr_cli.client.errors import NotFoundError

__all__ = ["fetch_backends"]


def fetch_backends(api: Api) -> list[dict[str, Any]] | None:
    """Everything known of every backend; ``None`` from a service that is not dmr."""
    try:
        answer = api.fetch_object("GET", "/dmr/v1/backends")
    except NotFoundError:
        return None
    return [entry for entry in answer.get("backends") or [] if isinstance(entry, dict)]
