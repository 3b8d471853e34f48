"""``GET /models/{name}?remote=true``: a model as its registry, or its hub, describes it. Nothing is stored."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from dmr_adapters.http.errors import plain_text, status_of
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.encoding import config_document
from dmr_core.domain.hub_reference import is_hub_name
from dmr_core.errors import DmrError, RemoteModelNotFoundError, UnauthorizedError
from dmr_core.services.remote_models import RemoteFile, RemoteModel

__all__ = ["describe_remote"]

_GATEWAY: Final = (502, 503, 504)


async def describe_remote(services: Services, name: str, *, stock: bool) -> Response:
    """Answer for ``name``; ``stock`` is whether the stock CLI asks, to which 502-504 are this service's own trouble."""
    try:
        return json_response(_model_json(await services.management().remote_models.describe(name)))
    except DmrError as exc:
        status = status_of(exc)
        text = f"error while getting remote model: {_reason(exc, name)}"
        return plain_text(text, 500 if stock and status in _GATEWAY else status)


def _reason(error: DmrError, name: str) -> str:
    """Its first words are those that clients of the reference look for."""
    if isinstance(error, RemoteModelNotFoundError) and not is_hub_name(name):  # a hub's own words say what there is
        return f'failed to pull model "{name}": MANIFEST_UNKNOWN - Model not found'
    if isinstance(error, UnauthorizedError):
        return f'failed to pull model "{name}": UNAUTHORIZED - {error.message}'
    return error.message


def _model_json(model: RemoteModel) -> dict[str, Any]:
    """The reference's document, and what it does not tell: ``source``, ``download_size`` and ``layers``, in bytes."""
    document: dict[str, Any] = {"id": str(model.id)} if model.id is not None else {}
    document |= {
        "created": model.created,
        "config": config_document(model.config),
        "source": model.source,
        "download_size": model.download_size,
        "layers": [_file_json(file) for file in model.files],
    }
    return {**document, "notes": list(model.notes)} if model.notes else document


def _file_json(file: RemoteFile) -> dict[str, Any]:
    document: dict[str, Any] = {"digest": str(file.digest)} if file.digest is not None else {}
    document |= {"size": file.size, "media_type": file.media_type}
    if file.path is not None:
        document["path"] = file.path
    return document
