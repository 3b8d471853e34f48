"""Acceptance, second part: models are given names and go to registries under them (I7-I12)."""

from __future__ import annotations

import hashlib

import pytest

from tests.e2e.distribution.world import World, digest_forms, tag_forms

pytestmark = pytest.mark.registry


def _targets(world: World, name: str) -> list[str]:
    """The nine shapes of a target."""
    registry = world.registry.host
    return [
        *(name, f"{name}:v1", f"ai/{name}-org", f"other/{name}", f"custom/{name}:v2"),
        *(f"{registry}/ai/{name}-reg:v1", f"{registry}/other/{name}-reg", f"{registry}/custom/{name}-reg:v3"),
        f"{world.other.host}/org/{name}:v1",
    ]


def _sources(world: World) -> tuple[str, list[str]]:
    """A model in the store, and nine names it has."""
    digest = world.seeded("source")
    world.ok("pull", "source")
    registry = world.registry.host
    return digest, [*tag_forms(registry, "source"), *digest_forms(registry, "source", digest)]


def test_i7_each_name_is_tagged_as_one_of_the_nine_targets(world: World) -> None:
    """Every source once and every target once; the whole product is the next test's."""
    digest, sources = _sources(world)
    targets = _targets(world, "target")
    assert len(sources) == len(targets) == 9
    for source, target in zip(sources, targets, strict=True):
        world.ok("tag", source, target)
        assert world.inspect(target)["id"] == world.inspect(source)["id"] == digest, (source, target)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_i7_every_name_is_tagged_as_every_target(world: World) -> None:
    digest, sources = _sources(world)
    for number, source in enumerate(sources):
        for target in _targets(world, f"target{number}"):
            world.ok("tag", source, target)
            assert world.inspect(target)["id"] == digest, (source, target)
        assert world.inspect(source)["id"] == digest, source
    (model,) = world.stored()
    assert len(model["tags"]) == 1 + 9 * 9


def test_i8_a_missing_model_cannot_be_tagged(world: World) -> None:
    world.fails("tag", "nowhere", "somewhere")
    assert world.stored() == []


def test_i9_the_name_a_model_has_may_be_given_again(world: World) -> None:
    world.seeded("tag-test")
    world.ok("pull", "tag-test")
    world.ok("tag", "tag-test", "tag-test")
    assert len(world.inspect("tag-test")["tags"]) == 1


def test_i10_a_model_is_pushed_to_the_default_registry_under_every_tag(world: World) -> None:
    digest = world.seeded("to-push")
    world.ok("pull", "to-push")
    for number, organisation in enumerate(["ai", "test"]):
        for name in tag_forms(world.registry.host, f"pushed{number}", "v1", organisation):
            world.ok("tag", "to-push", name)
            world.ok("push", name)
            tag = "v1" if name.endswith(":v1") else "latest"
            there = world.registry.manifest(f"{organisation}/pushed{number}", tag)
            assert "sha256:" + hashlib.sha256(there).hexdigest() == digest, name


def test_i11_a_model_is_pushed_to_another_registry_by_its_host(world: World) -> None:
    digest = world.seeded("elsewhere")
    world.ok("pull", "elsewhere")
    for path in ("ai/elsewhere", "ai/elsewhere:v1", "custom/elsewhere:v1"):
        name = f"{world.other.host}/{path}"
        world.ok("tag", "elsewhere", name)
        world.ok("push", name)
        repository, _, tag = path.partition(":")
        there = world.other.manifest(repository, tag or "latest")
        assert "sha256:" + hashlib.sha256(there).hexdigest() == digest, name


def test_i12_a_missing_model_and_no_name_cannot_be_pushed(world: World) -> None:
    world.fails("push", "nowhere")
    world.fails("push", "")
