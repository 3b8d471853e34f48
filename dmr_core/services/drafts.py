"""Draft models of speculative decoding: local models that go with another one."""

from __future__ import annotations

from typing import Final

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.model import Model
from dmr_core.errors import InvalidConfigurationError, InvalidReferenceError, ModelNotFoundError, PreconditionError
from dmr_core.services.catalog import CatalogService

__all__ = ["check_draft", "draft_of"]

_PARAM: Final = "speculative.draft_model"


def draft_of(catalog: CatalogService, name: str, config: EngineConfig) -> Digest | None:
    """The draft model that ``name`` is to be loaded with, if any.

    Raises:
        PreconditionError: it is gone.
    """
    if config.speculative is None:
        return None
    draft = config.speculative.draft_model
    try:
        return catalog.find(draft).id
    except (ModelNotFoundError, InvalidReferenceError) as exc:
        raise PreconditionError(
            f"failed to get draft model: {draft!r}, the draft model of {name!r}, is no longer in the store; pull it again, "
            f"or run `dmr configure --unset speculative {name}`"
        ) from exc


def check_draft(catalog: CatalogService, model: Model, config: EngineConfig) -> None:
    """Refuse a draft model that cannot be one.

    Raises:
        InvalidConfigurationError: it is not in the store, or of another format.
    """
    if config.speculative is None:
        return
    name = config.speculative.draft_model
    try:
        draft = catalog.find(name)
    except (ModelNotFoundError, InvalidReferenceError) as exc:
        raise InvalidConfigurationError(
            f"failed to get draft model: {name!r} is not in the store; run `dmr pull {name}` first", param=_PARAM
        ) from exc
    if draft.backend or model.backend:
        raise InvalidConfigurationError(
            f"{name!r} cannot be the draft model of {model.name!r}: both have to be in the store", param=_PARAM
        )
    if draft.format is not model.format:
        raise InvalidConfigurationError(
            f"{name!r} cannot be the draft model of {model.name!r}: their weights are of different formats",
            param=_PARAM,
        )
