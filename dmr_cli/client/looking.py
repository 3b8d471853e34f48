"""One model as the service, or through it the model's registry, describes it."""

from __future__ import annotations

from typing import Any, Final

from dmr_cli.client.api import Api, model_path
from dmr_cli.client.errors import NotFoundError

__all__ = ["look_up"]

_UNKNOWN: Final = "model not found"  # in any case: all that a store or a registry says, where a hub says more


def look_up(api: Api, model: str, *, remote: bool = False) -> dict[str, Any]:
    """The description of ``model``.

    Raises:
        NotFoundError: there is no such model; with ``remote``, not in its registry.
    """
    path = model_path(model)
    try:
        return api.fetch_object("GET", path, query={"remote": "true"} if remote else None)
    except NotFoundError as error:
        if remote and _UNKNOWN not in error.message.lower():
            raise
        where = " in its registry" if remote else ""
        raise NotFoundError(f"no such model{where}: {model}") from error
