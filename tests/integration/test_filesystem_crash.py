"""A process killed at any step leaves the old state or the new one.

A child process does the work and dies, without cleaning up, right before its n-th change of the disk;
then the store is opened and looked at.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import StoreUnwritableError
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob, put_model

_SHARED, _OLD, _NEW = b"GGUF-shared", b"GGUF-old", b"GGUF-new"
_ONE = parse_reference("one:v1", ReferencePolicy())
_OLD_ID = build_artifact([layer_of(_SHARED), layer_of(_OLD)]).id
_NEW_ID = build_artifact([layer_of(_SHARED), layer_of(_NEW)]).id

_CHILD = """
import asyncio, os, sys
from pathlib import Path
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.testing.contracts.model_store import put_model

STEPS = "fsync rename unlink rmdir mkdir link pwrite fchmod".split()

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
    store = await FilesystemModelStore.open(root)
    new = await put_model(store, b"GGUF-shared", b"GGUF-new")
    await store.tag(new.id, parse_reference("one:v1", ReferencePolicy()))
    await store.bundle(new.id)
    await store.remove(Digest.parse(sys.argv[2]))

for number, root in enumerate(sorted(Path(sys.argv[1]).iterdir()), start=1):
    child = os.fork()
    if child == 0:
        die_at(number)
        asyncio.run(work(root))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""
_POINTS = 60


@pytest.fixture
async def roots(tmp_path: Path) -> list[Path]:
    """As many copies of one store, with a model that is tagged and has a bundle, as there are points to die at."""
    template = tmp_path / "template"
    store = await FilesystemModelStore.open(template)
    old = await put_model(store, _SHARED, _OLD)
    await store.tag(old.id, _ONE)
    await store.bundle(old.id)
    copies = [tmp_path / "copies" / f"{number:03d}" for number in range(1, _POINTS + 1)]
    for copy in copies:
        shutil.copytree(template, copy)
    return copies


def _kill_at_every_step(roots: list[Path]) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(roots[0].parent), str(_OLD_ID)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=50,
    )
    return [int(line) for line in done.stdout.split()]


async def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(roots: list[Path]) -> None:
    codes = _kill_at_every_step(roots)
    assert set(codes) == {0, 9}, "more points are needed to reach the end of the work"
    states = [await _look_and_finish(root) for root in roots]
    assert states == sorted(states), "a later death cannot show an earlier state"
    assert {states[0], states[-1]} == {0, 3}


async def _look_and_finish(root: Path) -> int:
    """Check one store, then do the work again. 0 to 3: how far the killed process came."""
    store = await FilesystemModelStore.open(root)
    models = {model.id: model for model in store.models()}
    for model in models.values():
        for blob in model.manifest.blobs:
            data = (root / "blobs" / "sha256" / blob.digest.hex).read_bytes()
            assert hashlib.sha256(data).hexdigest() == blob.digest.hex
        assert (await store.bundle(model.id)).gguf is not None
    tagged = store.by_tag(_ONE.canonical)
    assert tagged is not None
    state = [
        ({_OLD_ID}, _OLD_ID),
        ({_OLD_ID, _NEW_ID}, _OLD_ID),
        ({_OLD_ID, _NEW_ID}, _NEW_ID),
        ({_NEW_ID}, _NEW_ID),
    ].index((set(models), tagged.id))
    assert list((root / ".dmr" / "tmp").iterdir()) == []
    assert json.loads((root / "layout.json").read_bytes()) == {"version": "1.0.0"}

    await put_model(store, _SHARED, _NEW)
    await store.tag(_NEW_ID, _ONE)
    await store.remove(_OLD_ID)
    assert [(model.id, model.tags) for model in store.models()] == [(_NEW_ID, (_ONE.canonical,))]
    assert await store.has_blob(Digest.of(_SHARED))
    return state


async def test_what_the_index_lists_is_never_taken_back_when_a_sync_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no file descriptor left for the directory, nothing is renamed: no model is listed without its manifest."""
    store = await FilesystemModelStore.open(tmp_path)
    await put_blob(store, _NEW)
    refused, real = 0, os.open

    def refusing(path: str | Path, flags: int, *args: Any, **kwargs: Any) -> int:
        nonlocal refused
        if flags & os.O_DIRECTORY and Path(path) == tmp_path:
            refused += 1
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(StoreUnwritableError):
        await store.add(build_artifact([layer_of(_NEW)]))
    monkeypatch.undo()
    assert refused == 1
    assert (await FilesystemModelStore.open(tmp_path)).models() == ()
    assert json.loads((tmp_path / "models.json").read_bytes())["models"] in ([], None)


async def test_a_bundle_is_on_the_disk_before_it_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await FilesystemModelStore.open(tmp_path)
    artifact = await put_model(store, _NEW)
    synced, real = [], os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    bundle = await store.bundle(artifact.id)
    names = [path.relative_to(tmp_path).parts for path in synced]
    assert [path[3:] for path in names if path[:2] == (".dmr", "tmp") and len(path) > 3] == [
        ("config.json",),
        ("model",),
    ]
    assert names[-1] == ("bundles", "sha256")
    assert bundle.root.parent == synced[-1]
