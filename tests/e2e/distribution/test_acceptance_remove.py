"""Acceptance, third part: models are removed by the names they have, tags before the model (I13, I14, I16-I19)."""

from __future__ import annotations

import pytest

from tests.e2e.distribution.world import World, digest_forms, id_forms, tag_forms

pytestmark = pytest.mark.registry


def test_i13_a_model_with_one_tag_is_removed_by_all_twelve_names(world: World) -> None:
    digest = world.seeded("gone")
    registry = world.registry.host
    for name in (*tag_forms(registry, "gone"), *digest_forms(registry, "gone", digest), *id_forms(digest)):
        world.ok("pull", "gone")
        world.ok("rm", name)
        assert world.stored() == [], name
    assert world.listed() == []


def test_i14_two_models_are_removed_at_once(world: World) -> None:
    for name in ("left", "right"):
        world.seeded(name)
        world.ok("pull", name)
    world.ok("rm", "left", "right")
    assert world.listed() == []


def _tagged(world: World) -> str:
    digest = world.seeded("many")
    world.ok("pull", "many")
    for tag in ("v1", "v2", "v3"):
        world.ok("tag", "many", f"many:{tag}")
    return digest


def test_i16_a_tag_is_removed_alone(world: World) -> None:
    digest = _tagged(world)
    world.ok("rm", "many:v1")
    model = world.inspect("many")
    assert model["id"] == digest
    assert model["tags"] == [f"{world.registry.host}/ai/many:{tag}" for tag in ("latest", "v2", "v3")]


def test_i17_an_id_of_many_tags_needs_force(world: World) -> None:
    digest = _tagged(world)
    assert "(must be forced) due to multiple tag references" in world.fails("rm", digest)
    assert len(world.inspect("many")["tags"]) == 4


def test_i18_an_id_and_force_remove_every_tag(world: World) -> None:
    digest = _tagged(world)
    said = world.ok("rm", "-f", digest)
    assert said.count("Untagged: ") == 4
    assert said.splitlines()[-1] == f"Deleted: {digest}"
    assert world.listed() == []


@pytest.mark.parametrize("name", ["nowhere", "", "invalid:reference:format"])
@pytest.mark.parametrize("force", [[], ["-f"]])
def test_i19_what_is_not_there_or_no_name_cannot_be_removed(world: World, name: str, force: list[str]) -> None:
    world.seeded("stays")
    world.ok("pull", "stays")
    world.fails("rm", *force, name)
    assert len(world.stored()) == 1
