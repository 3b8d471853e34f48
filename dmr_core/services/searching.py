"""Searching the hubs for models, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

import attrs

from dmr_core.domain.search import SearchHit, merged
from dmr_core.errors import DmrError, InvalidRequestError, RegistryError, RegistryUnreachableError
from dmr_core.ports.model_search import ModelSearch

__all__ = ["MAX_LIMIT", "OpenSources", "SearchOutcome", "SearchService", "canonical_source"]

MAX_LIMIT: Final = 1000
_MAX_TERM: Final = 200
_AT_ONCE: Final = 4
_ALL: Final = "all"
_ALIASES: Final = {"docker": "dockerhub", "hub": "dockerhub", "hf": "huggingface"}
_KEYS: Final = (_ALL, "dockerhub", "huggingface")

OpenSources = Callable[[], AbstractAsyncContextManager[Sequence[ModelSearch]]]
"""Opens connections to the hubs for one search, and closes them after it."""


@attrs.frozen
class SearchOutcome:
    """What was found; ``warnings`` name the hubs that failed, and why."""

    hits: tuple[SearchHit, ...]
    warnings: tuple[str, ...] = ()


def canonical_source(text: str) -> str:
    """The one name of a source, or ``all``.

    Raises:
        InvalidRequestError: there is none of this name.
    """
    lowered = text.strip().lower()
    key = _ALIASES.get(lowered, lowered)
    if key not in _KEYS:
        raise InvalidRequestError(
            f'unknown source "{text}": valid options are all, dockerhub (docker, hub), huggingface (hf)', param="source"
        )
    return key


class SearchService:
    """Asks every hub at once, and then about each hit that is shown, ``_AT_ONCE`` at a time and hub.

    ``answer_within`` bounds a hub's answer, ``describe_within`` all questions about hits together; both in seconds.
    """

    def __init__(self, open_sources: OpenSources, *, answer_within: float = 30.0, describe_within: float = 8.0) -> None:
        self._open_sources = open_sources
        self._answer_within = answer_within
        self._describe_within = describe_within

    async def search(self, term: str = "", *, limit: int = 32, source: str = _ALL) -> SearchOutcome:
        """What matches ``term``, Docker Hub's before Hugging Face's, the most downloaded first.

        Raises:
            InvalidRequestError: no such source, a limit or a term that nobody can mean.
            RegistryError: every hub failed.
        """
        key = canonical_source(source)
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidRequestError(f"limit must be from 1 to {MAX_LIMIT}, not {limit}", param="limit")
        if len(term) > _MAX_TERM:
            raise InvalidRequestError(f"the search term is longer than {_MAX_TERM} characters", param="term")
        async with self._open_sources() as opened:
            sources = [each for each in opened if key in (_ALL, each.key)]
            answers = await asyncio.gather(*(self._asked(each, term.strip(), limit) for each in sources))
            failures = [
                (each.name, answer)
                for each, answer in zip(sources, answers, strict=True)
                if isinstance(answer, DmrError)
            ]
            if len(failures) == len(sources):
                raise _everything_failed(failures)
            hits = merged([[] if isinstance(answer, DmrError) else answer for answer in answers], limit)
            described = await self._described(hits, {each.name: each for each in sources})
        return SearchOutcome(described, tuple(f"failed to search {name}: {error.message}" for name, error in failures))

    async def _asked(self, source: ModelSearch, term: str, limit: int) -> tuple[SearchHit, ...] | DmrError:
        try:
            async with asyncio.timeout(self._answer_within):
                return await source.search(term, limit)
        except TimeoutError:
            return RegistryUnreachableError(f"no answer within {self._answer_within:g} s")
        except DmrError as exc:
            return exc

    async def _described(self, hits: Sequence[SearchHit], sources: dict[str, ModelSearch]) -> tuple[SearchHit, ...]:
        """The hits with backend and size; what cannot be told, or not in time, stays unknown."""
        found = list(hits)
        turns = {name: asyncio.Semaphore(_AT_ONCE) for name in sources}

        async def describe(index: int, hit: SearchHit) -> None:
            async with turns[hit.source]:
                with suppress(DmrError):  # a detail of one line of many: it stays unknown
                    found[index] = await sources[hit.source].described(hit)

        tasks = [asyncio.ensure_future(describe(index, hit)) for index, hit in enumerate(hits)]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._describe_within)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome  # a bug; cancelled ones are no ``Exception``
        return tuple(found)


def _everything_failed(failures: Sequence[tuple[str, DmrError]]) -> RegistryError:
    causes = "; ".join(f"{name}: {error.message}" for name, error in failures)
    return RegistryError(f"search failed: all search sources failed: [{causes}]")
