"""The rest of what both clients do with models in the store: derive, show, run, free and remove them all."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from tests.e2e.distribution.world import World

pytestmark = pytest.mark.registry

QUESTION = json.loads((resources.files("dmr_cli.demo") / "questions.json").read_text())[4]


def test_a_variant_with_another_context_size_shares_its_weights(world: World) -> None:
    digest = world.seeded("base", context_size=2048)
    world.ok("pull", "base")
    world.ok("package", "--from", "base", "--context-size", "4096", "variant:v1")
    variant = world.inspect("variant:v1")
    assert variant["id"] != digest
    assert variant["tags"] == [f"{world.registry.host}/ai/variant:v1"]
    assert variant["config"]["context_size"] == 4096
    assert world.inspect("base")["config"]["context_size"] == 2048
    world.fails("package", "--from", "nowhere", "--context-size", "4096", "variant:v2")


def test_purge_removes_every_model(world: World) -> None:
    for name in ("one", "two"):
        world.seeded(name)
        world.ok("pull", name)
    world.ok("purge", "-f")
    assert world.stored() == []
    world.ok("purge", "--force")
    assert world.listed() == []


def test_the_service_tells_about_itself(world: World) -> None:
    assert world.ok("status").startswith("Docker Model Runner is running\n")
    assert "Version:" in world.ok("version")
    assert "Models" in world.ok("df")
    world.ok("ps")
    assert world.ok("unload", "--all") == "No models are running.\n"
    world.seeded("json")
    world.ok("pull", "json")
    assert json.loads(world.ok("ls", "--json")) == world.stored()


def test_a_model_that_is_not_here_is_pulled_when_it_is_run(world: World) -> None:
    said = world.ok("run", "dmr/demo", QUESTION["question"])
    assert QUESTION["answer"] in said
    assert "llama.cpp" in world.ok("ps")
    assert world.ok("unload", "dmr/demo") == "Unloaded 1 model(s).\n"
