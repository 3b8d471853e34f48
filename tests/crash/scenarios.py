"""What is done to a store when processes are killed, and the stores it is done to."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.testing.contracts.samples import layer_of, put_blob, put_model
from tests.crash.registry import CountingRegistry, RemoteModel, noise, remote_model

__all__ = ["FOREIGN", "Scenario", "scenarios"]

_MIB: Final = 1024 * 1024
FOREIGN: Final = frozenset({"notes.txt"})

_SHARED = noise("shared", _MIB // 2)
_OWN = noise("own", _MIB // 4)
_KEEPER = noise("keeper", 70_000)
_NEW = remote_model([noise("new-a", 7 * _MIB + 4321), _SHARED, noise("new-b", 5 * _MIB)])
_SMALL = remote_model([noise("small", 2 * _MIB + 1), _SHARED])
_GARBAGE = noise("garbage", 50_000)


@attrs.frozen(kw_only=True)
class Scenario:
    """An operation on a store.

    ``template`` is the store before it. ``remote`` is what it pulls, if anything. ``gradual`` is for operations that remove
    several models one after another, where anything between before and after may be seen.
    """

    name: str
    operation: str
    argument: str
    template: Path
    remote: RemoteModel | None = None
    gradual: bool = False

    def copy(self, root: Path) -> None:
        """Make the store at ``root``."""
        shutil.copytree(self.template, root, symlinks=True)


def scenarios(directory: Path, registry: CountingRegistry) -> list[Scenario]:
    """Every scenario, with its template made below ``directory``."""
    registry.serve("ai/new:latest", _NEW)
    registry.serve("ai/small:latest", _SMALL)
    new, small = f"{registry.host}/ai/new", f"{registry.host}/ai/small"
    file = directory / "weights.gguf"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(noise("packaged", 3 * _MIB + 17))

    def made(name: str, change: Callable[[Path], None] | None = None) -> Path:
        root = directory / name
        asyncio.run(_basic(root))
        if change is not None:
            change(root)
        return root

    (directory / "empty").mkdir()
    basic = made("basic")
    return [
        Scenario(name="open", operation="open", argument="", template=directory / "empty"),
        Scenario(name="open-old", operation="open", argument="", template=made("old", _with_old_leftovers)),
        Scenario(name="pull", operation="pull", argument=new, template=basic, remote=_NEW),
        Scenario(name="first-pull", operation="pull", argument=small, template=directory / "empty", remote=_SMALL),
        Scenario(
            name="pull-again",
            operation="pull",
            argument=small,
            template=made("moved", lambda root: asyncio.run(_tag(root, _OWN, small))),
            remote=_SMALL,
        ),
        Scenario(
            name="adopt", operation="pull", argument=new, template=made("theirs", _with_their_partials), remote=_NEW
        ),
        Scenario(name="package", operation="package", argument=f"{file} packaged:v1", template=basic),
        Scenario(name="import", operation="import", argument=f"{file} packaged:v1", template=basic),
        Scenario(name="import-link", operation="import-link", argument=f"{file} packaged:v1", template=basic),
        Scenario(name="repackage", operation="repackage", argument="own:v1 own:v2", template=basic),
        Scenario(name="tag", operation="tag", argument="own:v1 own:v3", template=basic),
        Scenario(name="tag-moved", operation="tag", argument="keeper:v1 own:v2", template=basic),
        Scenario(name="untag", operation="remove", argument="own:v2", template=basic),
        Scenario(
            name="delete",
            operation="remove",
            argument="own:v1",
            template=made("one-tag", lambda root: asyncio.run(_untag(root, "own:v2"))),
        ),
        Scenario(name="delete-by-id", operation="remove", argument=_own_id(basic), template=basic),
        Scenario(name="bundle", operation="bundle", argument="keeper:v1", template=basic),
        Scenario(
            name="bundle-again", operation="bundle", argument="own:v1", template=made("broken", _with_broken_bundle)
        ),
        Scenario(name="prune", operation="prune", argument="", template=made("garbage", _with_garbage)),
        Scenario(
            name="prune-all",
            operation="prune-all",
            argument="",
            template=made("untagged", _with_garbage_and_untagged),
            gradual=True,
        ),
        Scenario(name="purge", operation="purge", argument="", template=made("purged", _with_garbage)),
    ]


async def _basic(root: Path) -> None:
    """Two models that share a layer: one that nobody touches, one with two tags and a bundle."""
    store = await FilesystemModelStore.open(root)
    keeper = await put_model(store, _SHARED, _KEEPER)
    own = await put_model(store, _SHARED, _OWN)
    for model_id, names in ((keeper.id, ["keeper:v1"]), (own.id, ["own:v1", "own:v2"])):
        for name in names:
            await store.tag(model_id, parse_reference(name, ReferencePolicy()))
    await store.bundle(own.id)
    (root / "notes.txt").write_text("mine")


def _own_id(root: Path) -> str:
    async def find() -> str:
        store = await FilesystemModelStore.open(root)
        return next(str(model.id) for model in store.models() if _holds(model.manifest.layers, _OWN))

    return asyncio.run(find())


def _holds(layers: object, content: bytes) -> bool:
    return layer_of(content).digest in {layer.digest for layer in layers}  # type: ignore[attr-defined]


async def _tag(root: Path, layer: bytes, name: str) -> None:
    store = await FilesystemModelStore.open(root)
    model = next(model for model in store.models() if _holds(model.manifest.layers, layer))
    await store.tag(model.id, parse_reference(name, ReferencePolicy()))


async def _untag(root: Path, name: str) -> None:
    store = await FilesystemModelStore.open(root)
    await store.untag(parse_reference(name, ReferencePolicy()).canonical)


def _with_their_partials(root: Path) -> None:
    """What the reference runner received before it was stopped: a prefix of one layer."""
    layer = _NEW.layers[0]
    partial = root / "blobs" / "sha256" / f"{Digest.of(layer).hex}.incomplete"
    partial.write_bytes(layer[: 2 * _MIB + 77])


def _with_broken_bundle(root: Path) -> None:
    for config in (root / "bundles" / "sha256").glob("*/config.json"):
        config.unlink()


def _with_old_leftovers(root: Path) -> None:
    """An index as an older reference wrote it, and what killed processes left."""
    index = root / "models.json"
    index.write_text(index.read_text().replace('"docker.io/ai/own:v2"', '"hf.co/ai/own:v2"'))
    _with_leftovers(root)


def _with_leftovers(root: Path) -> None:
    for name in ("a", "b"):
        (root / ".dmr" / "tmp" / name).mkdir()
        (root / ".dmr" / "tmp" / name / "model").write_bytes(b"left")
    (root / ".dmr" / "tmp" / "models.json.abc").write_bytes(b"{")


def _with_garbage(root: Path) -> None:
    """Blobs, a manifest, a bundle and a partial of no model."""

    async def make() -> None:
        store = await FilesystemModelStore.open(root)
        await put_blob(store, _GARBAGE)
        async with store.write_blob(layer_of(noise("partial", 90_000))) as writer:
            await writer.write(noise("partial", 90_000)[:40_000])

    asyncio.run(make())
    _with_leftovers(root)
    (root / "manifests" / "sha256" / Digest.of(b"{}").hex).write_bytes(b"{}")
    bundle = root / "bundles" / "sha256" / Digest.of(b"{}").hex / "model"
    bundle.mkdir(parents=True)
    (bundle / "model.gguf").write_bytes(b"GGUF")


def _with_garbage_and_untagged(root: Path) -> None:
    async def make() -> None:
        store = await FilesystemModelStore.open(root)
        for number in range(3):
            await put_model(store, _SHARED, noise(f"untagged-{number}", 10_000))

    asyncio.run(make())
    _with_garbage(root)
