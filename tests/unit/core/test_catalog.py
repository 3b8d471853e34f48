"""A model answers to its tags, its digest, and the beginning of its ID."""

from __future__ import annotations

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import ConflictError, InvalidReferenceError, ModelInUseError, ModelNotFoundError
from dmr_core.services import catalog as module
from dmr_core.services.catalog import CatalogService, Removal
from dmr_core.testing.contracts.model_store import put_model
from dmr_core.testing.fakes.model_store import InMemoryModelStore

POLICY = ReferencePolicy()


class CountingStore(InMemoryModelStore):
    """Counts lookups, and takes in at a refresh what another process is said to have added."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups = 0
        self.others: list[bytes] = []

    def by_tag(self, canonical: str) -> Model | None:
        self.lookups += 1
        return super().by_tag(canonical)

    async def refresh(self) -> None:
        for weights in self.others:
            await add(self, weights, weights.decode())


async def add(store: InMemoryModelStore, weights: bytes, *tags: str) -> Model:
    made = await put_model(store, weights)
    for tag in tags:
        await store.tag(made.id, parse_reference(tag, POLICY))
    found = store.by_id(made.id)
    assert found is not None
    return found


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def catalog(store: CountingStore) -> CatalogService:
    return CatalogService(store, POLICY)


# --- finding ----------------------------------------------------------------------------------------


async def test_a_model_answers_to_every_form_of_its_names(store: CountingStore, catalog: CatalogService) -> None:
    model = await add(store, b"one", "one", "registry.example/team/one:v1")
    await add(store, b"two", "two")

    for name in (
        "one",
        "ai/one",
        "docker.io/ai/one:latest",
        "INDEX.docker.io/AI/One",
        " one ",
        "registry.example/team/one:v1",
        str(model.id),
        model.id.hex,
        model.id.short,
        f"one@{model.id}",
        f"anything@{model.id}",
    ):
        assert catalog.find(name) == model
    assert [model.id] == [found.id for found in catalog.list() if found == model]
    assert catalog.policy is POLICY


@pytest.mark.parametrize("name", ["two", "one:v2", "0" * 12, "0" * 64, "sha256:" + "0" * 64, "one@sha256:" + "0" * 64])
async def test_what_answers_to_no_name_is_not_found(store: CountingStore, catalog: CatalogService, name: str) -> None:
    await add(store, b"one", "one")

    with pytest.raises(ModelNotFoundError, match=name):
        catalog.find(name)


@pytest.mark.parametrize("name", ["", "a:b:c", "../x", "one@sha256:12", "ai/" + "0" * 64])
async def test_what_can_be_no_name_is_refused(catalog: CatalogService, name: str) -> None:
    with pytest.raises(InvalidReferenceError):
        catalog.find(name)


async def test_twelve_digits_may_be_a_name_after_all(store: CountingStore, catalog: CatalogService) -> None:
    model = await add(store, b"one", "0123456789ab")

    assert catalog.find("0123456789ab") == model


async def test_a_name_is_looked_up_once_until_the_index_changes(store: CountingStore, catalog: CatalogService) -> None:
    model = await add(store, b"one", "one")
    assert catalog.find("one") is catalog.find("one") is model
    assert store.lookups == 1

    other = await add(store, b"two", "one")
    assert catalog.find("one") == other
    assert store.lookups == 2


async def test_a_name_that_was_not_found_is_looked_up_again(store: CountingStore, catalog: CatalogService) -> None:
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            catalog.find("one")
    assert store.lookups == 2


async def test_names_are_found_though_no_more_are_remembered(
    store: CountingStore, catalog: CatalogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CACHED", 1)
    model = await add(store, b"one", "one")

    assert [model] * 4 == [catalog.find(name) for name in ("one", "ai/one", "one", "ai/one")]
    assert store.lookups == 3


async def test_what_another_process_added_is_found_by_looking_at_the_disk(
    store: CountingStore, catalog: CatalogService
) -> None:
    store.others.append(b"late")
    with pytest.raises(ModelNotFoundError):
        catalog.find("late")

    assert (await catalog.find_fresh("late")).tags == ("docker.io/ai/late:latest",)
    with pytest.raises(ModelNotFoundError):
        await catalog.find_fresh("absent")


# --- tagging ----------------------------------------------------------------------------------------


async def test_a_tag_is_given_and_taken_from_whoever_had_it(store: CountingStore, catalog: CatalogService) -> None:
    one, two = await add(store, b"one", "one"), await add(store, b"two", "two")

    assert str(await catalog.tag("one", "team/X:V1")) == "docker.io/team/x:V1"
    await catalog.tag(two.id.short, "one")
    assert [("docker.io/team/x:V1",), ("docker.io/ai/two:latest", "docker.io/ai/one:latest")] == [
        found.tags for found in catalog.list()
    ]
    assert catalog.find("one").id == two.id
    assert catalog.find("team/x:V1").id == one.id


@pytest.mark.parametrize(
    "target", ["x@sha256:" + "0" * 64, "0123456789ab", "0" * 64, "sha256:" + "0" * 64, "", "a:b:c"]
)
async def test_an_id_or_a_digest_is_no_tag(store: CountingStore, catalog: CatalogService, target: str) -> None:
    await add(store, b"one", "one")

    with pytest.raises(InvalidReferenceError):
        await catalog.tag("one", target)
    assert catalog.find("one").tags == ("docker.io/ai/one:latest",)


async def test_twelve_digits_in_an_organisation_are_a_tag(store: CountingStore, catalog: CatalogService) -> None:
    await add(store, b"one", "one")

    assert str(await catalog.tag("one", "team/0123456789ab")) == "docker.io/team/0123456789ab:latest"


async def test_only_what_is_there_can_be_tagged(catalog: CatalogService) -> None:
    with pytest.raises(ModelNotFoundError):
        await catalog.tag("absent", "other")


# --- removing ---------------------------------------------------------------------------------------


async def test_a_model_goes_with_its_last_tag(store: CountingStore, catalog: CatalogService) -> None:
    model = await add(store, b"one", "one", "one:v2")

    assert await catalog.remove("one:v2") == Removal(("docker.io/ai/one:v2",), None)
    assert await catalog.remove("one") == Removal(("docker.io/ai/one:latest",), model.id)
    assert catalog.list() == ()


@pytest.mark.parametrize("name", ["{0.id}", "{0.id.hex}", "{0.id.short}", "one@{0.id}"])
async def test_an_id_removes_a_model_of_several_tags_only_by_force(
    store: CountingStore, catalog: CatalogService, name: str
) -> None:
    model = await add(store, b"one", "one", "one:v2")
    text = name.format(model)

    with pytest.raises(ConflictError) as caught:
        await catalog.remove(text)
    assert caught.value.message == (
        f'unable to delete "{text}" (must be forced) due to multiple tag references: resource conflict'
    )
    assert await catalog.remove(text, force=True) == Removal(model.tags, model.id)


@pytest.mark.parametrize("tags", [(), ("one",)])
async def test_an_id_removes_a_model_of_one_tag_or_none(
    store: CountingStore, catalog: CatalogService, tags: tuple[str, ...]
) -> None:
    model = await add(store, b"one", *tags)

    assert await catalog.remove(model.id.short) == Removal(model.tags, model.id)


async def test_a_model_in_use_stays_and_may_lose_a_tag_it_can_spare(
    store: CountingStore, catalog: CatalogService
) -> None:
    model = await add(store, b"one", "one", "one:v2")
    asked: list[Digest] = []

    def in_use(model_id: Digest) -> bool:
        asked.append(model_id)
        return True

    catalog.protect(in_use)
    assert await catalog.remove("one:v2") == Removal(("docker.io/ai/one:v2",), None)
    for name in ("one", model.id.short):
        with pytest.raises(ModelInUseError, match=f"model '{name}' is being used by a running request"):
            await catalog.remove(name, force=True)
    assert asked == [model.id] * 2
    assert catalog.find("one").id == model.id


async def test_what_is_not_there_cannot_be_removed(catalog: CatalogService) -> None:
    with pytest.raises(ModelNotFoundError):
        await catalog.remove("absent")
