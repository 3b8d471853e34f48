"""Finding, listing, tagging and removing models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ModelId, Reference, ReferencePolicy, parse_model_id, parse_reference
from dmr_core.errors import (
    ConflictError,
    DmrError,
    InvalidReferenceError,
    ModelInUseError,
    ModelNotFoundError,
    UnsupportedFormatError,
)
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.services.plugin_calls import guarded

__all__ = ["CatalogService", "Removal"]

_MAX_CACHED: Final = 4096
_REFRESH: Final = 5.0
"""Seconds a source may take to say which models it has."""

_log: Final = logging.getLogger("dmr.models")
_ATTEMPTS: Final = 16  # of a removal, while other processes tag the model


@attrs.frozen
class Removal:
    """What a removal did, in order: tags taken away, then the model deleted, if it was."""

    untagged: tuple[str, ...]
    deleted: Digest | None


class CatalogService:
    """What is in the store, by any name a model answers to."""

    def __init__(self, store: ModelStore, policy: ReferencePolicy, sources: Sequence[ModelSource] = ()) -> None:
        self._store = store
        self._policy = policy
        self._sources = tuple(sources)
        self._in_use: Callable[[Digest], bool] = lambda _id: False
        self._release: Callable[[Digest], Awaitable[None]] | None = None
        self._found: dict[str, Model] = {}
        self._by_short: dict[str, Model] | None = None
        self._found_at = -1

    @property
    def policy(self) -> ReferencePolicy:
        """The defaults references are read with."""
        return self._policy

    def protect(
        self, in_use: Callable[[Digest], bool], release: Callable[[Digest], Awaitable[None]] | None = None
    ) -> None:
        """Refuse to remove models that ``in_use`` says are being used; ``release`` unloads one that is idle."""
        self._in_use = in_use
        self._release = release

    @property
    def generation(self) -> int:
        """A number that grows whenever a model comes, goes or changes its tags."""
        generation = self._store.generation
        for source in self._sources:
            generation += source.generation
        return generation

    def list(self) -> tuple[Model, ...]:
        """Every model: those of the store in the order of its index, then those of each source."""
        models = self._store.models()
        for source in self._sources:
            models += source.models()
        return models

    def find(self, text: str) -> Model:
        """The model ``text`` names: a reference, an ID, or the first twelve digits of one.

        Synchronous and in memory; a name that was found before costs one dictionary lookup.

        Raises:
            ModelNotFoundError: nothing answers to it.
            InvalidReferenceError: it can be no name.
        """
        generation = self.generation
        if self._found_at != generation:
            self._found.clear()
            self._by_short = None
            self._found_at = generation
        model = self._found.get(text)
        if model is None:
            model = self._look_up(text)
            if len(self._found) < _MAX_CACHED:
                self._found[text] = model
        return model

    def by_id(self, model_id: Digest) -> Model | None:
        """The model with this ID, if it is here."""
        found = self._store.by_id(model_id)
        if found is not None:
            return found
        return next((model for source in self._sources for model in source.models() if model.id == model_id), None)

    async def refresh(self, text: str | None = None) -> None:
        """Take in what others changed: in the store, and in the sources that ``text`` may come from (or in all)."""
        await self._store.refresh()
        asked = [source for source in self._sources if text is None or self._may_have(source, text)]
        await asyncio.gather(*(self._ask(source) for source in asked))

    async def find_fresh(self, text: str) -> Model:
        """As :meth:`find`, by what the store says now: another process may have given the name to another model."""
        await self.refresh(text)
        return self.find(text)

    async def find_stored(self, text: str) -> Model:
        """As :meth:`find_fresh`, for what only models in the store can be used for.

        Raises:
            UnsupportedFormatError: the model is kept elsewhere.
        """
        model = await self.find_fresh(text)
        if model.backend:
            raise UnsupportedFormatError(
                f"{text!r} is not in the store, the backend {model.backend!r} keeps it: use its own tools for this"
            )
        return model

    async def disk_usage(self) -> int:
        """Bytes that models take on disk."""
        await asyncio.gather(*(self._ask(source) for source in self._sources))
        kept = await asyncio.gather(*(source.disk_usage() for source in self._sources))
        return await self._store.disk_usage() + sum(kept)

    def check_tag(self, target: str) -> Reference:
        """The tag ``target`` stands for.

        Raises:
            InvalidReferenceError: no model can be given this name.
        """
        reference = parse_reference(target, self._policy)
        if reference.digest is not None or (parse_model_id(target) is not None and "/" not in target):
            raise InvalidReferenceError(target, "a tag cannot be a digest or a model ID")
        return reference

    async def tag(self, text: str, target: str) -> Reference:
        """Give the model ``text`` names one more tag, taking the tag from any other model.

        Raises:
            ModelNotFoundError, InvalidReferenceError: as for :meth:`find`, for either name.
        """
        reference = self.check_tag(target)
        model = await self.find_stored(text)
        await self._store.tag(model.id, reference)
        return reference

    async def remove(self, text: str, *, force: bool = False) -> Removal:
        """Take a tag away; the model goes with its last tag. An ID removes the model.

        Raises:
            ModelNotFoundError: nothing answers to ``text``.
            ConflictError: an ID with several tags, without ``force``.
            ModelInUseError: a runner is busy with the model, or another process uses it.
        """
        for _ in range(_ATTEMPTS):
            model = await self.find_fresh(text)
            tag = self._as_tag(text, model)
            if tag is not None and len(model.tags) > 1:
                await (self._keeper(model) if model.backend else self._store).untag(tag)
                return Removal((tag,), None)
            if tag is None and len(model.tags) > 1 and not force:
                raise ConflictError(
                    f'unable to delete "{text}" (must be forced) due to multiple tag references: resource conflict'
                )
            if self._in_use(model.id):
                raise ModelInUseError(f"model {text!r} is being used by a running request; unload it first")
            if self._release is not None:
                await self._release(model.id)  # an engine that is ready holds a lease
            if model.backend:
                await self._keeper(model).remove(model.id)
                return Removal(model.tags, model.id)
            # Another process may have given it a tag since, and been told that it has it, or have moved this one.
            if await self._store.remove(model.id, only_tagged=None if force and tag is None else model.tags):
                return Removal(model.tags, model.id)
        raise ConflictError(f"cannot remove {text!r}: other processes keep changing its tags; try again")

    def _look_up(self, text: str) -> Model:
        model_id = parse_model_id(text)
        if model_id is not None:
            known = self._with_id(model_id)
            if known is not None:
                return known
            if len(model_id.prefix) == 64:
                raise ModelNotFoundError(text)
        reference = parse_reference(text, self._policy)
        found = self._store.by_id(reference.digest) if reference.digest else self._store.by_tag(reference.canonical)
        if found is None:
            found = next((model for source in self._sources if (model := source.find(reference)) is not None), None)
        if found is None:
            raise ModelNotFoundError(text)
        return found

    def _keeper(self, model: Model) -> ModelSource:
        for source in self._sources:
            if any(known.id == model.id for known in source.models()):
                return source
        raise ModelNotFoundError(model.name)

    def _may_have(self, source: ModelSource, text: str) -> bool:
        if parse_model_id(text) is not None:
            return True
        try:
            return source.claims(parse_reference(text, self._policy))
        except InvalidReferenceError:
            return False

    async def _ask(self, source: ModelSource) -> None:
        try:
            await guarded(source.refresh, f"{type(source).__name__}: refresh()", timeout=_REFRESH)
        except DmrError as exc:  # what it said last still counts
            _log.warning("%s", exc.message)

    def _with_id(self, model_id: ModelId) -> Model | None:
        if len(model_id.prefix) == 64:
            return self.by_id(Digest(model_id.prefix))
        if self._by_short is None:
            # The first of the index wins, should two ever begin alike.
            self._by_short = {model.id.short: model for model in reversed(self.list())}
        return self._by_short.get(model_id.prefix)

    def _as_tag(self, text: str, model: Model) -> str | None:
        """The tag of ``model`` that ``text`` is, or ``None`` when it names the model by its digest."""
        try:
            reference = parse_reference(text, self._policy)
        except InvalidReferenceError:
            return None
        return reference.canonical if reference.digest is None and reference.canonical in model.tags else None
