"""What dmr knows of its engines beyond what every service of the reference tells."""

from __future__ import annotations

from typing import Any

from dmr_cli.client.api import Api
from dmr_cli.client.errors import NotFoundError

__all__ = ["fetch_backends", "fetch_overview"]


def fetch_backends(api: Api) -> list[dict[str, Any]] | None:
    """Everything known of every backend; ``None`` from a service that is not dmr."""
    overview = fetch_overview(api)
    return None if overview is None else overview["backends"]


def fetch_overview(api: Api) -> dict[str, Any] | None:
    """``backends``, the ``accelerator`` they are started for, and ``warnings``; ``None`` from a service that is not dmr."""
    try:
        answer = api.fetch_object("GET", "/dmr/v1/backends")
    except NotFoundError:
        return None
    accelerator = answer.get("accelerator")
    return {
        "backends": _objects(answer.get("backends")),
        "accelerator": accelerator if isinstance(accelerator, dict) else {},
        "warnings": _objects(answer.get("warnings")),
    }


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
