"""Acceptance, fourth part: models made of files and of other models are in the store under their name (I20-I23)."""

from __future__ import annotations

import hashlib

import pytest

from tests.e2e.distribution.world import World

pytestmark = pytest.mark.registry


@pytest.mark.parametrize(
    ("name", "stored", "flags"),
    [
        pytest.param("packaged-test", "ai/packaged-test:latest", [], id="i20"),
        pytest.param("packaged-test", "ai/packaged-test:latest", ["--context-size", "4096"], id="i21"),
        pytest.param("myorg/packaged-test:v1", "myorg/packaged-test:v1", [], id="i22"),
        pytest.param("packaged-test", "ai/packaged-test:latest", ["--format", "cncf"], id="i23"),
    ],
)
def test_i20_to_i23_a_file_is_packaged_and_found_by_its_name(
    world: World, name: str, stored: str, flags: list[str]
) -> None:
    gguf = world.gguf("packaged")
    done = world.client.run("package", "--gguf", str(gguf), *flags, name)
    assert done.code == 0, done.text
    assert "model not found" not in done.text.lower()
    model = world.inspect(name)
    assert model["tags"] == [f"{world.registry.host}/{stored}"]
    assert model["config"]["format"] == "gguf"
    if "--context-size" in flags:
        assert model["config"]["context_size"] == 4096


def test_a_packaged_model_goes_to_the_registry_and_comes_back_the_same(world: World) -> None:
    world.ok("package", "--gguf", str(world.gguf("there-and-back")), "there-and-back")
    digest = world.inspect("there-and-back")["id"]
    world.ok("push", "there-and-back")
    world.empty()
    world.ok("pull", "there-and-back")
    assert world.inspect("there-and-back")["id"] == digest
    assert "sha256:" + hashlib.sha256(world.registry.manifest("ai/there-and-back", "latest")).hexdigest() == digest
