"""Several processes on one store; `make test-hammer` does it for longer."""

from __future__ import annotations

import os
from pathlib import Path

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.services.catalog import CatalogService
from dmr_core.testing.contracts.samples import put_model
from tests.crash.hammer import hammer
from tests.crash.ledger import Ledger

_SECONDS = float(os.environ.get("DMR_HAMMER", "5"))
_POLICY = ReferencePolicy()


def test_clients_of_one_store_lose_nothing(tmp_path: Path) -> None:
    result = hammer(tmp_path, seconds=_SECONDS)
    assert result.defects == []
    for what in ("pull", "tag 201", "remove 200", "beside", "prune"):
        assert result.answers.get(what), f"nobody got as far as {what!r}: {result.answers}"


async def test_a_tag_that_another_process_added_survives_the_removal_of_what_was_the_only_one(tmp_path: Path) -> None:
    one = await FilesystemModelStore.open(tmp_path)
    model = await put_model(one, b"GGUF-weights")
    await one.tag(model.id, parse_reference("first", _POLICY))
    other = await FilesystemModelStore.open(tmp_path)
    await one.tag(model.id, parse_reference("second", _POLICY))
    removal = await CatalogService(other, _POLICY).remove("first")
    assert removal.deleted is None
    await one.refresh()
    assert [found.tags for found in one.models()] == [("docker.io/ai/second:latest",)]


async def test_the_removal_of_a_tag_finds_the_model_another_process_moved_it_to(tmp_path: Path) -> None:
    one = await FilesystemModelStore.open(tmp_path)
    first, second = await put_model(one, b"GGUF-first"), await put_model(one, b"GGUF-second")
    await one.tag(first.id, parse_reference("wanted", _POLICY))
    other = await FilesystemModelStore.open(tmp_path)
    await one.tag(second.id, parse_reference("wanted", _POLICY))
    removal = await CatalogService(other, _POLICY).remove("wanted")
    assert removal.deleted == second.id
    await one.refresh()
    assert [found.id for found in one.models()] == [first.id]


async def test_a_tag_that_moves_while_its_model_is_removed_is_followed(tmp_path: Path) -> None:
    one = await FilesystemModelStore.open(tmp_path)
    first, second = await put_model(one, b"GGUF-first"), await put_model(one, b"GGUF-second")
    await one.tag(first.id, parse_reference("wanted", _POLICY))
    other = await FilesystemModelStore.open(tmp_path)
    catalog = CatalogService(other, _POLICY)

    async def move(_model: Digest) -> None:
        await one.tag(second.id, parse_reference("wanted", _POLICY))

    catalog.protect(lambda _model: False, move)
    assert (await catalog.remove("wanted")).deleted == second.id
    await one.refresh()
    assert [found.id for found in one.models()] == [first.id]


def test_the_ledger_knows_what_may_be() -> None:
    ledger = Ledger()
    for model in ("a", "b"):
        with ledger.change("tag", model) as change:
            change.done = True
    assert ledger.wrong({"tag": "b"}) == []
    assert ledger.wrong({"tag": "a"})
    assert ledger.wrong({})
    assert ledger.wrong({"tag": "b", "nobody's": "a"})
    with ledger.change("tag", "c"):
        pass  # nobody answered
    assert ledger.possible("tag") == {"b", "c"}
    with ledger.change("tag", "d") as outer:
        with ledger.change("tag", None) as inner:
            inner.done = True
        outer.done = True
    assert ledger.possible("tag") == {"d", None}


def test_nothing_but_what_was_said_is_possible() -> None:
    assert Ledger().possible("tag") == {None}
