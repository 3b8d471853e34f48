"""Leases, between stores on one directory and between processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import leased_digests, live_leases
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import ModelInUseError
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob, put_model

_CHILD = """
import asyncio, sys
from pathlib import Path
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.digest import Digest

async def work():
    store = await FilesystemModelStore.open(Path(sys.argv[1]))
    async with store.lease(map(Digest.parse, sys.argv[2:])):
        print("leased", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(work())
"""


@contextmanager
def other_process(root: Path, *digests: Digest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a lease until its stdin is closed."""
    command = [sys.executable, "-c", _CHILD, str(root), *map(str, digests)]
    repository = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repository) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"leased\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def test_a_model_that_another_process_uses_is_not_removed_until_that_process_dies(tmp_path: Path) -> None:
    store = await FilesystemModelStore.open(tmp_path)
    artifact = await put_model(store, b"GGUF-weights")
    with other_process(tmp_path, artifact.id) as process:
        with pytest.raises(ModelInUseError, match=f"process {process.pid}"):
            await store.remove(artifact.id)
        with pytest.raises(ModelInUseError, match=f"process {process.pid}"):
            await FilesystemStoreMaintenance(tmp_path).clear()
        assert [model.id for model in store.models()] == [artifact.id]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        await store.remove(artifact.id)
    assert store.models() == ()
    assert not await store.has_blob(Digest.of(b"GGUF-weights"))


async def test_what_another_process_leased_is_not_collected(tmp_path: Path) -> None:
    store, maintenance = await FilesystemModelStore.open(tmp_path), FilesystemStoreMaintenance(tmp_path)
    await put_blob(store, b"leased")
    await put_blob(store, b"not leased")
    with other_process(tmp_path, Digest.of(b"leased")):
        await maintenance.collect(everything=True)
        assert [await store.has_blob(Digest.of(data)) for data in (b"leased", b"not leased")] == [True, False]
    await maintenance.collect(everything=True)
    assert not await store.has_blob(Digest.of(b"leased"))


async def test_what_one_store_committed_and_did_not_add_yet_survives_the_collections_of_another(tmp_path: Path) -> None:
    """A pull and a collection, interleaved in every way that takes a step at a time."""
    pulling, other = await FilesystemModelStore.open(tmp_path), FilesystemStoreMaintenance(tmp_path)
    blobs = [b"GGUF-%d" % number for number in range(8)]
    artifact = build_artifact([layer_of(data) for data in blobs])
    done = asyncio.Event()

    async def collect() -> int:
        count = 0
        while not done.is_set():
            await other.collect(partials_older_than=0.0, everything=True)
            count += 1
        return count

    collecting = asyncio.create_task(collect())
    async with pulling.lease(blob.digest for blob in artifact.manifest.blobs):
        for data in blobs:
            await put_blob(pulling, data)
        model = await pulling.add(artifact)
        await asyncio.sleep(0)
        model = await pulling.tag(model.id, parse_reference("one", ReferencePolicy()))
    done.set()
    assert await collecting > 0
    assert [await pulling.has_blob(Digest.of(data)) for data in blobs] == [True] * len(blobs)
    assert pulling.by_tag(model.tags[0]) == model


async def test_a_lease_ends_with_its_context_and_leaves_no_file(tmp_path: Path) -> None:
    store, layout = await FilesystemModelStore.open(tmp_path), StoreLayout(tmp_path)
    digests = frozenset(Digest.of(b"%d" % number) for number in range(1000))
    async with store.lease(digests), store.lease([Digest.of(b"0")]):
        assert leased_digests(layout) == digests
        assert len(list(live_leases(layout))) == 2
    assert list(layout.leases.iterdir()) == []


async def test_a_cancelled_lease_leaves_no_file(tmp_path: Path) -> None:
    store, layout = await FilesystemModelStore.open(tmp_path), StoreLayout(tmp_path)
    other = await FilesystemModelStore.open(tmp_path)

    async def hold() -> None:
        async with store.lease([Digest.of(b"")]):
            await asyncio.Event().wait()

    for turns in range(30):
        task = asyncio.create_task(hold())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert list(live_leases(layout)) == []
    await put_model(other, b"GGUF")  # nobody kept the lock


async def test_the_lease_of_the_dead_is_swept_when_a_store_opens(tmp_path: Path) -> None:
    await FilesystemModelStore.open(tmp_path)
    layout = StoreLayout(tmp_path)
    with other_process(tmp_path, Digest.of(b"")) as process:
        process.kill()
        process.wait(10)
        assert len(list(layout.leases.iterdir())) == 1
        assert list(live_leases(layout)) == []
        await FilesystemModelStore.open(tmp_path)
        assert list(layout.leases.iterdir()) == []


async def test_a_file_that_is_no_lease_is_left_alone(tmp_path: Path) -> None:
    store, layout = await FilesystemModelStore.open(tmp_path), StoreLayout(tmp_path)
    async with store.lease([]):
        (layout.leases / "notes.txt").write_text("mine")
    await FilesystemStoreMaintenance(tmp_path).collect(everything=True)
    assert (layout.leases / "notes.txt").read_text() == "mine"
