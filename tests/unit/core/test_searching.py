"""Searching several hubs at once, and what is left when some of them fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from dmr_core.domain.search import SearchHit, backends_of, merged, plain
from dmr_core.errors import InvalidRequestError, RegistryError, RegistryUnreachableError
from dmr_core.ports.model_search import ModelSearch
from dmr_core.services.searching import SearchService, canonical_source
from dmr_core.testing.fakes.model_search import InMemoryModelSearch


def hit(name: str, downloads: int = 0, source: str = "Docker Hub") -> SearchHit:
    return SearchHit(name=name, reference=name, source=source, downloads=downloads, backend="llama.cpp", size=7)


class Hubs:
    """Two hubs, and whether they are open."""

    def __init__(self) -> None:
        self.docker = InMemoryModelSearch()
        self.face = InMemoryModelSearch(key="huggingface", name="HuggingFace")
        self.opened = self.closed = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sequence[ModelSearch]]:
        self.opened += 1
        try:
            yield (self.docker, self.face)
        finally:
            self.closed += 1

    def service(self, *, answer_within: float = 5.0, describe_within: float = 5.0) -> SearchService:
        return SearchService(self.open, answer_within=answer_within, describe_within=describe_within)


@pytest.fixture
def hubs() -> Hubs:
    made = Hubs()
    made.docker.hits = [hit("few", 1), hit("many", 5)]
    made.face.hits = [hit("org/most", 9, "HuggingFace")]
    return made


async def test_hits_of_docker_hub_come_first_then_the_most_downloaded(hubs: Hubs) -> None:
    outcome = await hubs.service().search()
    assert [each.name for each in outcome.hits] == ["many", "few", "org/most"]
    assert {(each.backend, each.size) for each in outcome.hits} == {("llama.cpp", 7)}
    assert outcome.warnings == ()
    assert (hubs.opened, hubs.closed) == (1, 1)


@pytest.mark.parametrize(("source", "names"), [("hub", ["many", "few"]), ("HF", ["org/most"])])
async def test_one_source_is_asked_alone(hubs: Hubs, source: str, names: list[str]) -> None:
    other = hubs.face if source == "hub" else hubs.docker
    other.fail_with = RegistryError("must not be asked")
    assert [each.name for each in (await hubs.service().search(source=source)).hits] == names


async def test_one_that_fails_is_a_warning_beside_the_rest(hubs: Hubs) -> None:
    hubs.docker.fail_with = RegistryError("rate limited by Docker Hub, please try again later")
    outcome = await hubs.service().search()
    assert [each.name for each in outcome.hits] == ["org/most"]
    assert outcome.warnings == ("failed to search Docker Hub: rate limited by Docker Hub, please try again later",)


async def test_all_that_fail_are_an_error_that_names_them(hubs: Hubs) -> None:
    hubs.docker.fail_with = RegistryError("this")
    hubs.face.fail_with = RegistryUnreachableError("that")
    with pytest.raises(RegistryError) as caught:
        await hubs.service().search()
    assert caught.value.message == ("search failed: all search sources failed: [Docker Hub: this; HuggingFace: that]")
    assert (hubs.opened, hubs.closed) == (1, 1)


async def test_a_hub_that_is_silent_does_not_hold_up_the_other(hubs: Hubs) -> None:
    hubs.docker.hold = asyncio.Event()
    outcome = await hubs.service(answer_within=0.01).search()
    assert [each.name for each in outcome.hits] == ["org/most"]
    assert outcome.warnings == ("failed to search Docker Hub: no answer within 0.01 s",)


async def test_what_is_not_described_in_time_stays_unknown(hubs: Hubs) -> None:
    service = hubs.service(describe_within=0.01)
    hubs.face.hits = []
    released = asyncio.Event()

    async def search(term: str, limit: int) -> tuple[SearchHit, ...]:
        hubs.docker.hold = released  # from the first description on
        return (SearchHit(name="slow", reference="slow", source="Docker Hub"),)

    hubs.docker.search = search  # type: ignore[method-assign]
    (found,) = (await service.search()).hits
    assert (found.backend, found.size) == ("unknown", 0)


async def test_a_description_that_fails_costs_its_own_line_alone(hubs: Hubs) -> None:
    hubs.docker.fail_describing = RegistryError("no manifest")
    outcome = await hubs.service().search()
    assert [(each.name, each.backend) for each in outcome.hits] == [
        ("many", "unknown"),
        ("few", "unknown"),
        ("org/most", "llama.cpp"),
    ]
    assert outcome.warnings == ()


async def test_four_are_described_at_a_time(hubs: Hubs) -> None:
    hubs.docker.hits = [hit(f"m{number}") for number in range(20)]
    await hubs.service().search(source="hub")
    assert hubs.docker.most_at_once == 4


async def test_a_bug_in_a_hub_is_not_hidden(hubs: Hubs) -> None:
    async def described(hit: SearchHit) -> SearchHit:
        raise ValueError(f"a bug with {hit.name}")

    hubs.docker.described = described  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a bug"):
        await hubs.service().search()


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_nobody_can_mean_is_refused(hubs: Hubs, limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="limit must be from 1 to 1000"):
        await hubs.service().search(limit=limit)
    assert hubs.opened == 0


async def test_a_term_that_is_too_long_is_refused(hubs: Hubs) -> None:
    with pytest.raises(InvalidRequestError, match="longer than 200"):
        await hubs.service().search("x" * 201)


def test_sources_have_several_names() -> None:
    assert {canonical_source(text) for text in ("dockerhub", "docker", "hub", " HUB ")} == {"dockerhub"}
    assert {canonical_source(text) for text in ("huggingface", "hf")} == {"huggingface"}
    with pytest.raises(InvalidRequestError, match='unknown source "bing": valid options are'):
        canonical_source("bing")


def test_no_source_is_cut_off_by_another() -> None:
    docker = [hit(f"d{number}", number) for number in range(10)]
    face = [hit(f"h{number}", 100 + number, "HuggingFace") for number in range(2)]
    assert [each.name for each in merged([docker, face], 5)] == ["d9", "d8", "d7", "h1", "h0"]
    assert [each.name for each in merged([docker, face], 2)] == ["d9", "h1"]
    assert len(merged([docker, face], 100)) == 12
    assert merged([], 5) == merged([[], []], 5) == ()


def test_a_line_cannot_drive_a_terminal() -> None:
    assert plain("a\x1b[31mb\x00\x9bc\u202e", 50) == "a[31mbc"
    assert plain("one\r\n two\t\u2028three", 50) == "one two three"
    assert plain("x" * 51, 50) == "x" * 47 + "..."
    assert plain("日本語" * 20, 10) == "日本語日本語日..."


def test_backends_of_files_are_in_one_order() -> None:
    assert backends_of(["b.safetensors", "a.gguf", "x.txt", "noending"]) == "llama.cpp, vllm"
    assert backends_of(["x.DDUF"]) == "diffusers"
    assert backends_of(["gguf"]) == backends_of([]) == "unknown"


async def test_nothing_found_is_an_answer(hubs: Hubs) -> None:
    outcome = await hubs.service().search("nothing-like-it")
    assert (outcome.hits, outcome.warnings) == ((), ())
