"""Random stores with random damage: after a repair nothing is wrong, and nothing that was right is gone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.testing.contracts.model_store import put_blob, put_model

_BLOBS: Final = [b"GGUF-%d-" % number * (number + 1) for number in range(6)]
_POLICY: Final = ReferencePolicy()


@attrs.frozen
class Shape:
    """Models as sets of blobs, with so many tags each, some with a bundle; and blobs of no model."""

    models: tuple[frozenset[int], ...]
    tags: tuple[int, ...]
    bundles: tuple[bool, ...]
    loose: frozenset[int]


@attrs.frozen
class Damage:
    """One thing that is done to a file: which one, counted around, and what."""

    place: str
    number: int
    how: str


_shapes: Final = st.integers(1, 4).flatmap(
    lambda count: st.builds(
        Shape,
        st.tuples(*[st.frozensets(st.integers(0, 5), min_size=1, max_size=3)] * count),
        st.tuples(*[st.integers(0, 2)] * count),
        st.tuples(*[st.booleans()] * count),
        st.frozensets(st.integers(0, 5), max_size=2),
    )
)
_damages: Final = st.lists(
    st.builds(
        Damage,
        st.sampled_from(["blobs", "blobs", "manifests", "bundles", "models.json", "layout.json", ".dmr"]),
        st.integers(0, 20),
        st.sampled_from(["flip", "cut", "grow", "empty", "delete", "scramble"]),
    ),
    max_size=5,
)


async def build(root: Path, shape: Shape) -> list[Artifact]:
    store = await FilesystemModelStore.open(root)
    artifacts = []
    for number, blobs in enumerate(shape.models):
        artifact = await put_model(store, *(_BLOBS[blob] for blob in sorted(blobs)))
        for tag in range(shape.tags[number]):
            await store.tag(artifact.id, parse_reference(f"model{number}:v{tag}", _POLICY))
        if shape.bundles[number]:
            await store.bundle(artifact.id)
        artifacts.append(artifact)
    for blob in shape.loose:
        await put_blob(store, _BLOBS[blob])
    return artifacts


def inflict(root: Path, damage: Damage) -> None:
    files = sorted(path for path in [root / damage.place, *(root / damage.place).rglob("*")] if path.is_file())
    files = [path for path in files if path.name != "lock"]
    if not files:
        return
    path = files[damage.number % len(files)]
    content = path.read_bytes()
    path.chmod(0o644)
    match damage.how:
        case "flip":
            middle = len(content) // 2
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else b""
            )
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "grow":
            path.write_bytes(content + b"more")
        case "empty":
            path.write_bytes(b"")
        case "scramble":
            path.write_bytes(b"{" * len(content))
        case _:
            path.unlink()


def readable(root: Path, artifact: Artifact) -> bool:
    """Whether everything a model consists of is there as it was."""
    files = [(root / "manifests" / "sha256" / artifact.id.hex, artifact.id)]
    files += [(root / "blobs" / "sha256" / layer.digest.hex, layer.digest) for layer in artifact.manifest.blobs]
    return all(path.is_file() and Digest.of(path.read_bytes()) == digest for path, digest in files)


async def prove(root: Path, artifacts: list[Artifact]) -> None:
    """Repair, and see that all is well."""
    whole = {artifact.id: artifact for artifact in artifacts if readable(root, artifact)}
    maintenance = FilesystemStoreMaintenance(root)
    repaired = await maintenance.check(repair=True)
    assert repaired.is_clean, repaired.remaining
    again = await maintenance.check()
    assert again.is_clean, again.remaining
    store = await FilesystemModelStore.open(root)
    assert {model.id for model in store.models()} == whole.keys()
    for model in store.models():
        assert readable(root, whole[model.id])
        gguf = (await store.bundle(model.id)).gguf
        assert gguf is not None
        assert Digest.of(gguf.read_bytes()) == model.manifest.layers[0].digest
    # What a pull does: whatever is missing, and nothing else has to be; then everything is as it was.
    for artifact in artifacts:
        for layer in artifact.manifest.layers:
            if not await store.has_blob(layer.digest):
                await put_blob(store, next(data for data in _BLOBS if Digest.of(data) == layer.digest))
        await store.add(artifact)
    final = await maintenance.check(repair=True)
    assert final.is_clean, final.remaining
    await store.refresh()
    assert {model.id for model in store.models()} == {artifact.id for artifact in artifacts}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=_shapes, damages=_damages)
def test_after_a_repair_nothing_is_wrong_and_every_model_that_was_whole_is_whole(
    shape: Shape, damages: list[Damage]
) -> None:
    base = os.environ.get("DMR_TEST_STORES")  # another file system
    with tempfile.TemporaryDirectory(dir=base) as directory:
        root = Path(directory, "models")

        async def story() -> None:
            artifacts = await build(root, shape)
            for damage in damages:
                inflict(root, damage)
            await prove(root, artifacts)

        asyncio.run(story())


_CHILD: Final = """
import asyncio, os, sys
from pathlib import Path
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance

STEPS = "fsync rename unlink rmdir mkdir link fchmod".split()

def die_at(last):
    left = last
    def deadly(call):
        def step(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return call(*args, **kwargs)
        return step
    for name in STEPS:
        setattr(os, name, deadly(getattr(os, name)))

async def work(root):
    maintenance = FilesystemStoreMaintenance(root)
    if sys.argv[2] == "repair":
        await maintenance.check(repair=True)
    elif sys.argv[2] == "collect":
        await maintenance.collect(partials_older_than=0.0, everything=True)
    else:
        await maintenance.clear()

for number, root in enumerate(sorted(Path(sys.argv[1]).iterdir()), start=1):
    child = os.fork()
    if child == 0:
        die_at(number)
        asyncio.run(work(root))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


def kill_at_every_step(template: Path, copies: Path, work: str, points: int) -> list[Path]:
    """Copies of a store, in each of which a process that did ``work`` died one step later."""
    roots = [copies / f"{number:03d}" for number in range(1, points + 1)]
    for root in roots:
        shutil.copytree(template, root)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(copies), work],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=50,
    )
    codes = [int(line) for line in done.stdout.split()]
    assert set(codes) == {0, 9}, f"other points are needed to reach the end of the work: {codes}"
    return roots


_SHAPE: Final = Shape(
    (frozenset({0, 1}), frozenset({1, 2}), frozenset({3})), (2, 1, 0), (True, True, False), frozenset({5})
)


async def test_a_repair_that_is_killed_anywhere_can_be_repeated(tmp_path: Path) -> None:
    template = tmp_path / "template"
    artifacts = await build(template, _SHAPE)
    for damage in (Damage("blobs", 1, "flip"), Damage("manifests", 0, "cut"), Damage("models.json", 0, "grow")):
        inflict(template, damage)
    for root in kill_at_every_step(template, tmp_path / "copies", "repair", 60):
        await prove(root, artifacts)


@pytest.mark.parametrize("work", ["collect", "clear"])
async def test_a_collection_or_purge_that_is_killed_anywhere_leaves_a_clean_store(tmp_path: Path, work: str) -> None:
    template = tmp_path / "template"
    artifacts = await build(template, _SHAPE)
    tagged: Callable[[Artifact], bool] = lambda artifact: artifact is not artifacts[2]  # noqa: E731 - one use each
    for root in kill_at_every_step(template, tmp_path / "copies", work, 45):
        maintenance, store = FilesystemStoreMaintenance(root), await FilesystemModelStore.open(root)
        report = await maintenance.check()
        assert report.is_clean, report.remaining
        ids = {model.id for model in store.models()}
        if work == "collect":
            assert {artifact.id for artifact in artifacts if tagged(artifact)} <= ids
        for model in store.models():
            assert (await store.bundle(model.id)).gguf is not None
        await maintenance.collect(partials_older_than=0.0, everything=True)
        await store.refresh()
        names = {path.name for path in (root / "blobs" / "sha256").iterdir()}
        assert names == {blob.digest.hex for model in store.models() for blob in model.manifest.blobs}


def test_the_index_of_the_reference_is_as_it_was_after_a_repair_that_had_nothing_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        await build(tmp_path, _SHAPE)
        index = json.loads((tmp_path / "models.json").read_text())
        index["extra"] = {"of": "somebody"}
        (tmp_path / "models.json").write_text(json.dumps(index))
        before = (tmp_path / "models.json").read_bytes()
        assert (await FilesystemStoreMaintenance(tmp_path).check(repair=True)).is_clean
        assert (tmp_path / "models.json").read_bytes() == before

    asyncio.run(story())
