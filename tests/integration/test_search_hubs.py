"""Hubs that are slow, broken or hostile: a clear error, bounded memory, and nothing that drives a terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from yarl import URL

from dmr_adapters.registry.client import HttpClient, Timeouts
from dmr_adapters.search import hub_answer
from dmr_adapters.search.docker_hub import DockerHubSearch
from dmr_adapters.search.hugging_face import HuggingFaceSearch
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.errors import RegistryError, RegistryUnreachableError
from dmr_core.testing.fakes.registry import InMemoryRegistry
from tests.stand_ins.search_hubs import SearchHubs, search_hubs

_LIST = "/v2/repositories/ai/"
_MODELS = "/api/models"


@pytest.fixture
def hubs() -> Iterator[SearchHubs]:
    with search_hubs() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(Timeouts(stall=0.2, document=2.0))
    yield made
    await made.aclose()


@pytest.fixture
def docker_hub(hubs: SearchHubs, client: HttpClient) -> DockerHubSearch:
    return DockerHubSearch(client=client, registry=InMemoryRegistry(), policy=ReferencePolicy(), url=URL(hubs.url))


@pytest.fixture
def hugging_face(hubs: SearchHubs, client: HttpClient) -> HuggingFaceSearch:
    return HuggingFaceSearch(client=client, url=URL(hubs.url))


def _json(document: object, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param((429, {}, b""), "rate limited by {}, please try again later", id="too many requests"),
        pytest.param((500, {}, b"oops"), "unexpected status from {}: 500", id="server error"),
        pytest.param((302, {"Location": "http://127.0.0.1:9/"}, b""), "unexpected status from {}: 302", id="redirect"),
        pytest.param((200, {}, b"<html>"), "{} answered with something that is not what was asked for", id="no json"),
        pytest.param((200, {}, b"7"), "{} answered with something that is not what was asked for", id="other json"),
        pytest.param((200, {}, b"[" * 100_000), "{} answered with something", id="deep json"),
    ],
)
async def test_another_answer_is_an_error_that_names_the_hub(
    hubs: SearchHubs,
    docker_hub: DockerHubSearch,
    hugging_face: HuggingFaceSearch,
    reply: tuple[int, dict[str, str], bytes],
    words: str,
) -> None:
    hubs.replies = {_LIST: reply, _MODELS: reply}
    for hub in (docker_hub, hugging_face):
        with pytest.raises(RegistryError) as caught:
            await hub.search("", 10)
        assert caught.value.message.startswith(words.format(hub.name))


async def test_a_document_that_is_too_long_is_not_read(
    hubs: SearchHubs, hugging_face: HuggingFaceSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_answer, "DOCUMENT_LIMIT", 1000)
    hubs.replies[_MODELS] = (200, {}, b" " * 1001)
    with pytest.raises(RegistryError, match="answered with more than 1000 bytes"):
        await hugging_face.search("", 10)


async def test_silence_is_not_waited_out(hubs: SearchHubs, hugging_face: HuggingFaceSearch) -> None:
    hubs.replies[_MODELS] = threading.Event()
    with pytest.raises(RegistryUnreachableError, match="stopped answering"):
        await hugging_face.search("", 10)


async def test_no_credential_and_no_cookie_is_sent(
    hubs: SearchHubs, hugging_face: HuggingFaceSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await hugging_face.search("x", 3)
    (headers,) = hubs.headers
    assert not {"authorization", "cookie"} & {name.lower() for name in headers}
    assert hubs.requests == ["/api/models?apps=vllm,llama.cpp&sort=downloads&direction=-1&limit=3&search=x"]


async def test_a_term_cannot_become_another_parameter(hubs: SearchHubs, hugging_face: HuggingFaceSearch) -> None:
    hubs.models.append({"id": "org/a&limit=9"})
    hubs.models.append({"id": "org/b"})
    assert await hugging_face.search("b&limit=1000#", 1) == ()
    assert hubs.requests[0].endswith("search=b%26limit%3D1000%23")


async def test_descriptions_are_one_plain_line(hubs: SearchHubs, docker_hub: DockerHubSearch) -> None:
    hostile = "a\x1b]0;owned\x07b\r\n\tc \u202ed\u200b" + "e" * 100
    hubs.repositories.append({"name": "m", "namespace": "ai", "description": hostile, "last_updated": "\x1b[2J"})
    (hit,) = await docker_hub.search("", 10)
    assert hit.description == "a]0;ownedb c d" + "e" * 33 + "..."
    assert len(hit.description) == 50
    assert hit.updated_at == "[2J"


async def test_what_nobody_could_pull_is_left_out(
    hubs: SearchHubs, docker_hub: DockerHubSearch, hugging_face: HuggingFaceSearch
) -> None:
    names = ["good", "../evil", "a b", "", "UPPER", "x" * 300, "\x1b[2J", "with:tag", "at@sign"]
    hubs.repositories += [{"name": name, "namespace": "ai"} for name in names]
    hubs.repositories.append({"name": "private", "namespace": "ai", "is_private": True})
    hubs.repositories.append({"name": "elsewhere", "namespace": "evil.example.com"})
    assert [hit.name for hit in await docker_hub.search("", 100)] == ["ai/good"]
    hubs.models += [{"id": name} for name in ("Org/Good-1.5_b", "../evil", "a", "a/b/c", "a/..", "a/\x1b[2J", "a/b?c")]
    hubs.models.append({"id": "org/private", "private": True})
    assert [hit.reference for hit in await hugging_face.search("", 100)] == ["hf.co/Org/Good-1.5_b"]


async def test_an_entry_that_is_none_costs_itself_alone(
    hubs: SearchHubs, docker_hub: DockerHubSearch, hugging_face: HuggingFaceSearch
) -> None:
    broken: list[object] = [7, None, {"name": 7}, {"name": "x", "pull_count": "many"}, {"id": ["x"]}, []]
    hubs.replies = {
        _LIST: _json({"results": [*broken, {"name": "good", "pull_count": -5, "star_count": 10**30}], "next": None}),
        _MODELS: _json([*broken, {"id": "org/good", "downloads": -1}]),
    }
    (hub_hit,) = [hit for hit in await docker_hub.search("", 10) if hit.name == "ai/good"]
    assert (hub_hit.downloads, hub_hit.stars) == (0, 2**63 - 1)
    assert [hit.name for hit in await hugging_face.search("", 10)] == ["org/good"]


@pytest.mark.parametrize("following", ["http://127.0.0.1:1/v2/", "https://evil.example.com/", "file:///etc/passwd"])
async def test_the_next_page_lies_on_the_same_server(
    hubs: SearchHubs, docker_hub: DockerHubSearch, following: str
) -> None:
    hubs.replies[_LIST] = _json({"results": [{"name": "one"}], "next": following})
    with pytest.raises(RegistryError, match="on another server; refused"):
        await docker_hub.search("", 10)


async def test_pages_without_end_are_left(hubs: SearchHubs, docker_hub: DockerHubSearch) -> None:
    hubs.replies[_LIST] = _json({"results": [{"name": "one"}], "next": f"{hubs.url}{_LIST}"})
    assert await docker_hub.search("nothing like it", 10) == ()
    assert len(hubs.requests) == 50


async def test_backends_come_from_the_files(hubs: SearchHubs, hugging_face: HuggingFaceSearch) -> None:
    hubs.models += [{"id": f"org/m{number}", "downloads": 9 - number} for number in range(4)]
    hubs.files = {
        "org/m0": [{"rfilename": "a.safetensors", "size": 5}, {"rfilename": "b.GGUF", "size": 7}],
        "org/m1": [{"rfilename": "flux.dduf"}, {"rfilename": "x.bin", "size": 9}],
        "org/m2": [{"rfilename": "README.md", "size": 1}],
    }
    hits = await hugging_face.search("", 10)
    described = [await hugging_face.described(hit) for hit in hits[:3]]
    assert [(hit.backend, hit.size) for hit in described] == [("llama.cpp, vllm", 12), ("diffusers", 0), ("unknown", 0)]
    with pytest.raises(RegistryError, match="unexpected status from HuggingFace: 404"):
        await hugging_face.described(hits[3])


async def test_a_model_is_described_by_its_use_and_its_family(
    hubs: SearchHubs, hugging_face: HuggingFaceSearch
) -> None:
    tags = ["gguf", "Llama-3", "license:mit", "instruct", "chat", "llama-3"]
    hubs.models.append({"id": "org/told", "pipeline_tag": "text-generation", "tags": tags, "downloads": 2})
    hubs.models.append({"id": "org/untold", "tags": None})
    told, untold = await hugging_face.search("", 10)
    assert told.description == "text-generation, llama-3, instruct"
    assert untold.description == "AI model"
