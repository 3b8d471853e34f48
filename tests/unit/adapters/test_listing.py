"""The list of models as it goes over the wire: made once, joined again after a change, 304 for who has it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from dmr_adapters.http.listing import ModelListing
from dmr_adapters.http.rest_json import model_json
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.services.catalog import CatalogService
from dmr_core.testing.contracts.model_store import put_model
from dmr_core.testing.fakes.model_store import InMemoryModelStore

TAG = parse_reference("one:v1", ReferencePolicy())


def asking(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


class Renderer:
    """Renders as the API does, and remembers what."""

    def __init__(self) -> None:
        self.rendered: list[Model] = []

    def __call__(self, model: Model) -> dict[str, Any]:
        self.rendered.append(model)
        return model_json(model)


async def test_the_list_is_every_model_in_order() -> None:
    store, wrapped = InMemoryModelStore(), (b'{"data":[', b"]}\n")
    for number in range(3):
        await put_model(store, f"weights {number}".encode())
    models = store.models()
    plain, inside = (
        ModelListing(CatalogService(store, ReferencePolicy()), model_json),
        ModelListing(CatalogService(store, ReferencePolicy()), model_json, *wrapped),
    )

    answer = await plain.answer(asking())

    assert (answer.status_code, answer.media_type) == (200, "application/json")
    assert json.loads(bytes(answer.body)) == [model_json(model) for model in models]
    assert bytes(answer.body).endswith(b"]\n")
    assert json.loads(bytes((await inside.answer(asking())).body)) == {"data": [model_json(model) for model in models]}


async def test_an_empty_store_has_an_empty_list() -> None:
    answer = await ModelListing(CatalogService(InMemoryModelStore(), ReferencePolicy()), model_json).answer(asking())

    assert bytes(answer.body) == b"[]\n"


async def test_a_list_of_many_batches_is_whole() -> None:
    store = InMemoryModelStore()
    models = [await put_model(store, f"weights {number}".encode()) for number in range(250)]

    answer = await ModelListing(CatalogService(store, ReferencePolicy()), model_json).answer(asking())

    assert [entry["id"] for entry in json.loads(bytes(answer.body))] == [str(model.id) for model in models]


async def test_only_what_changed_is_rendered_again() -> None:
    store, render = InMemoryModelStore(), Renderer()
    await put_model(store, b"first")
    await put_model(store, b"second")
    first, second = store.models()
    listing = ModelListing(CatalogService(store, ReferencePolicy()), render)
    await listing.answer(asking())
    await listing.answer(asking())
    assert render.rendered == [first, second]

    tagged = await store.tag(first.id, TAG)
    answer = await listing.answer(asking())

    assert render.rendered == [first, second, tagged]
    assert json.loads(bytes(answer.body)) == [model_json(tagged), model_json(second)]
    await store.remove(first.id)
    assert json.loads(bytes((await listing.answer(asking())).body)) == [model_json(second)]


async def test_who_has_the_list_is_told_so_until_it_changes() -> None:
    store = InMemoryModelStore()
    model = await put_model(store, b"weights")
    listing = ModelListing(CatalogService(store, ReferencePolicy()), model_json)
    etag = (await listing.answer(asking())).headers["etag"]

    for condition in (etag, f'"other", W/{etag}', "*"):
        answer = await listing.answer(asking(if_none_match=condition))
        assert (answer.status_code, bytes(answer.body), answer.headers["etag"]) == (304, b"", etag)
    assert (await listing.answer(asking(if_none_match='"other"'))).status_code == 200

    await store.tag(model.id, TAG)
    changed = await listing.answer(asking(if_none_match=etag))
    assert (changed.status_code, changed.headers["etag"] != etag) == (200, True)


async def test_requests_at_once_share_the_work() -> None:
    store, render = InMemoryModelStore(), Renderer()
    for number in range(150):
        await put_model(store, f"weights {number}".encode())
    listing = ModelListing(CatalogService(store, ReferencePolicy()), render)

    answers = await asyncio.gather(*(listing.answer(asking()) for _ in range(5)))

    assert len(render.rendered) == 150
    assert len({bytes(answer.body) for answer in answers}) == 1
