"""A store that the reference runner made: read, changed, and read by the reference again, without loss.

The service is a real process; what the reference then sees is told by a reader of its own, which shares no code with dmr.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest
from tests.crash.reference_reader import ReferenceView, read_as_reference
from tests.crash.reference_store import ReferenceStore, build_reference_store, partial_layer
from tests.crash.registry import CountingRegistry, counting_registry, digest, noise, remote_model
from tests.e2e.conftest import Daemon, daemon_environment

_DEMO = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model" / "demo.gguf"


@pytest.fixture
def theirs(tmp_path: Path) -> ReferenceStore:
    (tmp_path / "models").mkdir()
    return build_reference_store(tmp_path / "models")


@pytest.fixture
def registry() -> Iterator[CountingRegistry]:
    with counting_registry() as made:
        yield made


@pytest.fixture
def daemon(theirs: ReferenceStore, tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, daemon_environment(tmp_path))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def _models(daemon: Daemon) -> list[dict[str, Any]]:
    with build_opener(ProxyHandler({})).open(f"{daemon.url}/models", timeout=30) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def _unharmed(theirs: ReferenceStore, *, without: frozenset[str] = frozenset()) -> ReferenceView:
    """What the reference sees; everything it wrote is there, byte for byte."""
    view = read_as_reference(theirs.root)
    assert view.layout == b'{\n  "version": "1.0.0"\n}'
    seen = {model.id: model for model in view.models}
    for model in theirs.models.values():
        if model.name in without:
            assert model.id not in seen
            continue
        assert (seen[model.id].manifest, seen[model.id].config) == (model.manifest, model.config)
        assert seen[model.id].files == model.files
        for layer in model.layers:
            assert (theirs.root / "blobs" / "sha256" / digest(layer)[7:]).read_bytes() == layer
    order = [model.id for model in view.models if model.id in {known.id for known in theirs.models.values()}]
    assert order == [model.id for model in theirs.models.values() if model.name not in without]
    return view


def _index(theirs: ReferenceStore) -> dict[str, Any]:
    return json.loads((theirs.root / "models.json").read_bytes())  # type: ignore[no-any-return]


def test_every_model_is_listed_with_its_tags_in_order(theirs: ReferenceStore, daemon: Daemon) -> None:
    listed = [(model["id"], tuple(model.get("tags") or ())) for model in _models(daemon)]
    assert listed == [(model.id, model.canonical) for model in theirs.models.values()]
    view = _unharmed(theirs)
    assert [model.tags for model in view.models] == [model.canonical for model in theirs.models.values()]


def test_what_is_unknown_stays_whatever_is_changed(theirs: ReferenceStore, daemon: Daemon) -> None:
    daemon.cli("tag", "plain:v2", "plain:v3")
    daemon.cli("tag", "legacy", "renamed:v1")
    daemon.cli("rm", "plain:latest")
    index = _index(theirs)
    assert index["future"] == {"kept": True}
    entries = {entry["id"]: entry for entry in index["models"]}
    for name in ("plain", "legacy"):
        assert entries[theirs.models[name].id]["futureOfEntry"] == {"of": name}
    for entry in theirs.unreadable:
        assert entries[entry["id"]] == entry
    view = _unharmed(theirs)
    assert view.find("plain:latest") is None
    for name in ("plain:v2", "plain:v3"):
        found = view.find(name)
        assert found is not None
        assert found.id == theirs.models["plain"].id
    legacy = view.find("legacy")
    assert legacy is not None
    assert legacy.tags == ("docker.io/ai/legacy:latest", "docker.io/ai/renamed:v1")


def test_a_tag_in_an_old_spelling_moves_and_goes(theirs: ReferenceStore, daemon: Daemon) -> None:
    daemon.cli("tag", "plain", "legacy:latest")
    daemon.cli("tag", "plain", "indexed:1")
    view = _unharmed(theirs)
    plain = view.find("plain")
    assert plain is not None
    assert {"docker.io/ai/legacy:latest", "docker.io/ai/indexed:1"} <= set(plain.tags)
    assert [model.tags for model in view.models if model.id == theirs.models["legacy"].id] == [()]
    daemon.cli("rm", "short:1")
    _unharmed(theirs, without=frozenset({"short"}))


def test_removing_takes_nothing_that_another_model_needs(theirs: ReferenceStore, daemon: Daemon) -> None:
    daemon.cli("rm", theirs.models["untagged"].id)
    _unharmed(theirs, without=frozenset({"untagged"}))
    gone = theirs.models["untagged"].layers[1]
    assert not (theirs.root / "blobs" / "sha256" / digest(gone)[7:]).exists()


def test_their_partial_is_gone_on_with_and_the_result_is_theirs_too(
    theirs: ReferenceStore, daemon: Daemon, registry: CountingRegistry
) -> None:
    layer = partial_layer()
    model = remote_model([layer, noise("other", 50_000)])
    registry.serve("ai/partial:latest", model)
    daemon.cli("pull", f"{registry.host}/ai/partial")
    assert registry.sent[digest(layer)] == len(layer) - 1_234_567
    view = _unharmed(theirs)
    pulled = view.models[-1]
    assert (pulled.id, pulled.tags) == (model.id, (f"{registry.host}/ai/partial:latest",))
    assert (pulled.manifest, pulled.config) == (model.manifest, model.config)
    assert pulled.files == (*map(digest, model.layers), digest(model.config))
    assert not list((theirs.root / "blobs" / "sha256").glob("*.incomplete"))


def test_what_is_packaged_here_is_read_there(theirs: ReferenceStore, daemon: Daemon) -> None:
    daemon.cli("package", "--gguf", str(_DEMO), "made:v1")
    view = _unharmed(theirs)
    made = view.find("made:v1")
    assert made is not None
    assert made.tags == ("docker.io/ai/made:v1",)
    assert made.files[0] == "sha256:" + hashlib.sha256(_DEMO.read_bytes()).hexdigest()


def test_a_prune_takes_their_leftovers_and_nothing_else(theirs: ReferenceStore, daemon: Daemon) -> None:
    daemon.cli("system", "prune", "--force")
    assert [path.name for path in theirs.leftovers if path.exists()] == []
    assert not (theirs.root / "bundles" / "sha256" / digest(b"departed")[7:]).exists()
    _unharmed(theirs)
    daemon.cli("system", "prune", "--all", "--force")
    _unharmed(theirs, without=frozenset({"untagged", "emptied"}))


async def test_their_bundles_are_used_and_finished(theirs: ReferenceStore) -> None:
    store = await FilesystemModelStore.open(theirs.root)
    bundles = theirs.root / "bundles" / "sha256"
    for name, whole in (("plain", True), ("short", False), ("directory", False), ("modelpack", False)):
        model_id = theirs.models[name].id
        before = _identity(bundles / model_id[7:])
        assert (await store.bundle(Digest.parse(model_id))).root == bundles / model_id[7:]
        assert (_identity(bundles / model_id[7:]) == before) is whole
        assert (bundles / model_id[7:] / "config.json").read_bytes().endswith(b"}\n")
    _unharmed(theirs)


def _identity(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
