"""Acceptance, first part: models come from a registry by every name they have, and are found by it (I1-I6, I15)."""

from __future__ import annotations

import json

import pytest

from tests.e2e.distribution.world import World, digest_forms, id_forms, tag_forms

pytestmark = pytest.mark.registry


def test_i1_a_fresh_service_lists_nothing(world: World) -> None:
    assert world.ok("ls", "-q") == ""


@pytest.mark.parametrize("organisation", ["ai", "test"])
def test_i2_i3_a_model_is_pulled_by_every_name_and_inspected_by_the_same(world: World, organisation: str) -> None:
    """One line of its short ID afterwards, the ID is the digest of the manifest, and there is a tag."""
    digest = world.seeded("pulled", tag="v1", organisation=organisation)
    untagged = world.seeded("pulled", organisation=organisation)
    registry = world.registry.host
    names = {name: digest if ":v1" in name else untagged for name in tag_forms(registry, "pulled", "v1", organisation)}
    names |= dict.fromkeys(digest_forms(registry, "pulled", digest, organisation), digest)
    for name, expected in names.items():
        world.ok("pull", name)
        assert world.listed() == [expected[7:19]], name
        model = world.inspect(name)
        assert model["id"] == expected, name
        assert model["tags"], name
        world.empty()


def test_i4_the_same_name_in_two_organisations_is_two_models(world: World) -> None:
    ours, theirs = world.seeded("twice"), world.seeded("twice", organisation="test")
    world.ok("pull", "twice")
    world.ok("pull", "test/twice")
    assert world.inspect("twice")["id"] == world.inspect("ai/twice")["id"] == ours
    assert world.inspect("test/twice")["id"] == theirs
    assert {entry["id"] for entry in world.stored()} == {ours, theirs}


def test_i5_inspect_takes_all_twelve_names(world: World) -> None:
    digest = world.seeded("inspected")
    world.ok("pull", "inspected")
    registry = world.registry.host
    names = [*tag_forms(registry, "inspected"), *digest_forms(registry, "inspected", digest), *id_forms(digest)]
    assert len(names) == 12
    for name in names:
        assert world.inspect(name)["id"] == digest, name


def test_i6_a_full_id_and_force_delete_the_model(world: World) -> None:
    digest = world.seeded("removed")
    world.ok("pull", "removed")
    world.ok("rm", "-f", digest)
    assert world.listed() == []


def test_i15_the_table_shows_both_short_ids(world: World) -> None:
    first, second = world.seeded("one"), world.seeded("two")
    world.ok("pull", "one")
    world.ok("pull", "two")
    table = world.ok("ls")
    assert first[7:19] in table
    assert second[7:19] in table
    assert {line.split()[0] for line in table.splitlines()[1:]} == {"one", "two"}


def test_the_registry_is_asked_without_pulling(world: World) -> None:
    """``inspect --remote`` tells what is there, under the registry's own ID, and stores nothing."""
    digest = world.seeded("remote", context_size=4096)
    model = json.loads(world.ok("inspect", "-r", "remote"))
    assert model["id"] == digest
    assert "tags" not in model
    assert model["config"]["context_size"] == 4096
    assert world.stored() == []
    assert "nowhere" in world.fails("inspect", "-r", "nowhere")


def test_show_tells_about_a_model_in_lines(world: World) -> None:
    digest = world.seeded("shown")
    world.ok("pull", "shown")
    for arguments in (["shown"], ["-r", "shown"]):
        lines = world.ok("show", *arguments).splitlines()
        assert lines[0].split() == ["Model:", digest]
        assert any(line.startswith("Tags:") for line in lines) == ("-r" not in arguments)
    world.fails("show", "nowhere")
