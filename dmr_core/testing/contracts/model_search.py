"""What every hub that can be searched promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs
import pytest

from dmr_core.domain.search import UNKNOWN_BACKEND
from dmr_core.ports.model_search import ModelSearch

__all__ = ["ModelSearchContract", "ModelSearchSubject"]

_SIZE = 4096


@attrs.frozen
class ModelSearchSubject:
    """The adapter under test. ``add`` puts a model with this number of downloads into the hub; it gives its name.

    It consists of one GGUF file; ``size`` is what its description should then be, in bytes.
    """

    search: ModelSearch
    add: Callable[[str, int], str]
    size: int = _SIZE


class ModelSearchContract(ABC):
    """Subclass it, and give an empty hub as ``subject``."""

    @pytest.fixture
    @abstractmethod
    def subject(self) -> ModelSearchSubject:
        """The hub under test."""

    async def test_an_empty_hub_has_nothing(self, subject: ModelSearchSubject) -> None:
        assert await subject.search.search("", 10) == ()

    async def test_models_are_found_by_a_part_of_their_name_in_any_case(self, subject: ModelSearchSubject) -> None:
        wanted = subject.add("some-llama", 1)
        subject.add("other", 2)
        (hit,) = await subject.search.search("LLAMA", 10)
        assert hit.name == wanted
        assert hit.source == subject.search.name

    async def test_without_a_term_all_are_listed_the_most_downloaded_first(self, subject: ModelSearchSubject) -> None:
        names = [subject.add(f"model-{number}", number) for number in (1, 3, 2)]
        hits = await subject.search.search("", 10)
        assert [hit.name for hit in hits] == [names[1], names[2], names[0]]
        assert [hit.downloads for hit in hits] == [3, 2, 1]

    async def test_no_more_than_the_limit_are_given(self, subject: ModelSearchSubject) -> None:
        names = [subject.add(f"model-{number}", number) for number in range(5)]
        hits = await subject.search.search("", 2)
        assert [hit.name for hit in hits] == [names[4], names[3]]

    async def test_a_description_tells_backend_and_size(self, subject: ModelSearchSubject) -> None:
        subject.add("described", 1)
        (hit,) = await subject.search.search("described", 1)
        assert (hit.backend, hit.size) == (UNKNOWN_BACKEND, 0)
        described = await subject.search.described(hit)
        assert (described.backend, described.size) == ("llama.cpp", subject.size)
        assert attrs.evolve(described, backend=hit.backend, size=hit.size) == hit
