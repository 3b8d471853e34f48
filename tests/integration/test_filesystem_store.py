"""The file-system store on real files: what is on the disk, and what others may have left there."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import leased_digests
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_core.domain.artifact import Artifact
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import PreconditionError, StorageFullError, StoreUnwritableError, UnavailableError
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob, put_model
from tests.conftest import require

_WEIGHTS = b"GGUF" + bytes(range(256)) * 64
_MEBIBYTE = 1024 * 1024
_ONE = parse_reference("one:v1", ReferencePolicy())
_OLD = 8 * 24 * 3600


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def _read_index(root: Path) -> Any:
    return json.loads((root / "models.json").read_bytes())


def _write_as_the_reference(root: Path, artifact: Artifact, *layers: bytes) -> dict[str, Any]:
    """Files and entry of a model, as the reference leaves them."""
    blobs, manifests = root / "blobs" / "sha256", root / "manifests" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifests.mkdir(parents=True, exist_ok=True)
    for data in (*layers, artifact.config_bytes):
        (blobs / Digest.of(data).hex).write_bytes(data)
    (manifests / artifact.id.hex).write_bytes(artifact.manifest_bytes)
    return {"id": str(artifact.id), "tags": None, "files": [str(blob.digest) for blob in artifact.manifest.blobs]}


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def _make(directory: Path, mode: int = 0o755) -> None:
    directory.mkdir(mode=mode)


def _empty(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _make_read_only(mount: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)


class TestLayout:
    async def test_a_new_store_has_the_references_documents(self, root: Path) -> None:
        await FilesystemModelStore.open(root)
        assert (root / "layout.json").read_bytes() == b'{\n  "version": "1.0.0"\n}'
        assert (root / "models.json").read_bytes() == b'{\n  "models": []\n}'

    async def test_a_model_is_stored_where_the_reference_looks(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        await store.tag(artifact.id, _ONE)
        layer, config = artifact.manifest.blobs
        assert _files(root) == {
            "layout.json",
            "models.json",
            ".dmr/lock",
            ".dmr/reserve",
            f"manifests/sha256/{artifact.id.hex}",
            f"blobs/sha256/{layer.digest.hex}",
            f"blobs/sha256/{config.digest.hex}",
        }
        assert (root / "models.json").read_text() == (
            "{\n"
            '  "models": [\n'
            "    {\n"
            f'      "id": "{artifact.id}",\n'
            '      "tags": [\n'
            '        "docker.io/ai/one:v1"\n'
            "      ],\n"
            '      "files": [\n'
            f'        "{layer.digest}",\n'
            f'        "{config.digest}"\n'
            "      ]\n"
            "    }\n"
            "  ]\n"
            "}"
        )
        assert (root / "manifests" / "sha256" / artifact.id.hex).read_bytes() == artifact.manifest_bytes
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root / "blobs" / "sha256").iterdir()}
        assert set(modes.values()) == {0o444}
        assert stat.S_IMODE((root / "models.json").stat().st_mode) == 0o644

    async def test_removing_the_last_model_leaves_an_empty_store(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        await store.bundle(artifact.id)
        await store.remove(artifact.id)
        assert _files(root) == {"layout.json", "models.json", ".dmr/lock", ".dmr/reserve"}
        assert _read_index(root) == {"models": []}

    async def test_a_relative_root_is_made_absolute(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root.parent)
        store = await FilesystemModelStore.open(Path("models"))
        artifact = await put_model(store, _WEIGHTS)
        assert (await store.bundle(artifact.id)).root.is_absolute()

    async def test_a_newer_layout_is_refused(self, root: Path) -> None:
        _make(root)
        (root / "layout.json").write_text('{"version": "2.0.0"}')
        with pytest.raises(PreconditionError, match=r"has layout 2\.0\.0"):
            await FilesystemModelStore.open(root)
        assert _files(root) == {"layout.json"}

    @pytest.mark.parametrize("text", ['{"version": "1.7.3", "x": 1}', "{}", "null", "not JSON", '{"version": 2}'])
    async def test_other_layout_documents_are_left_as_they_are(self, root: Path, text: str) -> None:
        _make(root)
        (root / "layout.json").write_text(text)
        await FilesystemModelStore.open(root)
        assert (root / "layout.json").read_text() == text


class TestForeignStores:
    async def test_a_store_of_the_reference_just_works(self, root: Path) -> None:
        """Nulls, every old spelling of tags, unknown fields, and files without annotations."""
        names = [b"GGUF-a", b"GGUF-b", b"GGUF-c"]
        artifacts = [build_artifact([layer_of(data)]) for data in names]
        entries = [
            _write_as_the_reference(root, artifact, data) for artifact, data in zip(artifacts, names, strict=True)
        ]
        entries[1]["tags"] = ["ai/x:1", "index.docker.io/ai/y:1", "z", "hf.co/Org/Model-GGUF:Q4_K_M", "!! not a tag"]
        entries[2]["tags"] = ["docker.io/ai/x:1", "docker.io/ai/w:2@sha256:" + "0" * 64]
        entries[2]["later"] = {"added": [1, 2]}
        (root / "models.json").write_text(json.dumps({"comment": "kept", "models": entries}))

        store = await FilesystemModelStore.open(root)
        assert [(model.id, model.tags) for model in store.models()] == [
            (artifacts[0].id, ()),
            (
                artifacts[1].id,
                (
                    "docker.io/ai/x:1",
                    "docker.io/ai/y:1",
                    "docker.io/ai/z:latest",
                    "huggingface.co/org/model-gguf:Q4_K_M",
                ),
            ),
            (artifacts[2].id, ("docker.io/ai/w:2",)),
        ]
        assert store.by_tag("docker.io/ai/x:1") == store.by_id(artifacts[1].id)

        await store.tag(artifacts[0].id, parse_reference("y:1", ReferencePolicy()))
        entries[0]["tags"] = ["docker.io/ai/y:1"]
        entries[1]["tags"] = ["ai/x:1", "z", "huggingface.co/Org/Model-GGUF:Q4_K_M", "!! not a tag"]
        assert _read_index(root) == {"comment": "kept", "models": entries}

    @pytest.mark.parametrize("text", ["null", "{}", '{"models": null}', '{"models": []}'])
    async def test_every_spelling_of_an_empty_index_is_empty(self, root: Path, text: str) -> None:
        _make(root)
        (root / "models.json").write_text(text)
        store = await FilesystemModelStore.open(root)
        assert store.models() == ()
        await put_model(store, _WEIGHTS)
        assert len(_read_index(root)["models"]) == 1

    @pytest.mark.parametrize("text", ["", "[]", '{"models": {}}', "{"])
    async def test_a_damaged_index_is_never_overwritten(self, root: Path, text: str) -> None:
        _make(root)
        (root / "models.json").write_text(text)
        with pytest.raises(PreconditionError, match="restore it, or delete it"):
            await FilesystemModelStore.open(root)
        assert (root / "models.json").read_text() == text

    async def test_an_index_damaged_later_leaves_the_models_known_so_far(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        (root / "models.json").write_text("oops")
        await store.refresh()
        assert [model.id for model in store.models()] == [artifact.id]
        with pytest.raises(PreconditionError):
            await store.tag(artifact.id, _ONE)
        assert (root / "models.json").read_text() == "oops"

    async def test_unreadable_entries_are_skipped_but_stay(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        names = [b"GGUF-no-manifest", b"GGUF-no-config", b"GGUF-bad-manifest", b"GGUF-good"]
        artifacts = [build_artifact([layer_of(data)]) for data in names]
        entries: list[Any] = [
            _write_as_the_reference(root, artifact, data) for artifact, data in zip(artifacts, names, strict=True)
        ]
        (root / "manifests" / "sha256" / artifacts[0].id.hex).unlink()
        # The third has a config of its own, so that this damages the second alone.
        other = build_artifact([layer_of(names[1])], artifacts[1].config, "application/x")
        entries[1] = _write_as_the_reference(root, other, names[1])
        broken = json.loads(other.manifest_bytes)
        broken["config"]["digest"] = str(Digest.of(b"gone"))
        (root / "manifests" / "sha256" / other.id.hex).write_text(json.dumps(broken))
        (root / "manifests" / "sha256" / artifacts[2].id.hex).write_text("{}")
        entries += [None, "text", {"id": "sha256:short"}, {"id": None, "files": [str(Digest.of(names[3]))]}]
        (root / "models.json").write_text(json.dumps({"models": entries}))

        store = await FilesystemModelStore.open(root)
        assert [model.id for model in store.models()] == [artifacts[3].id]
        await store.tag(artifacts[3].id, _ONE)
        entries[3]["tags"] = [_ONE.canonical]
        assert _read_index(root) == {"models": entries}
        assert len([record for record in caplog.records if "is left out" in record.message]) == 3

        # An entry nobody can read still keeps the blobs it names.
        await store.remove(artifacts[3].id)
        assert await store.has_blob(Digest.of(names[3]))
        assert await store.has_blob(Digest.of(names[0]))

    async def test_adding_a_broken_model_again_repairs_it(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        await store.tag(artifact.id, _ONE)
        (root / "manifests" / "sha256" / artifact.id.hex).unlink()
        store = await FilesystemModelStore.open(root)
        assert store.models() == ()
        assert (await store.add(artifact)).tags == (_ONE.canonical,)
        assert store.by_tag(_ONE.canonical) is not None

    async def test_the_references_partial_is_taken_over(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        descriptor = layer_of(_WEIGHTS)
        theirs = root / "blobs" / "sha256" / f"{descriptor.digest.hex}.incomplete"
        theirs.write_bytes(_WEIGHTS[:5000])
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == 5000
            await writer.write(_WEIGHTS[5000:])
            await writer.commit()
        assert not theirs.exists()
        assert await store.has_blob(descriptor.digest)

    async def test_a_partial_that_is_too_long_is_not_resumed(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        descriptor = layer_of(_WEIGHTS)
        theirs = root / "blobs" / "sha256" / f"{descriptor.digest.hex}.incomplete"
        theirs.write_bytes(_WEIGHTS + b"!")
        ours = root / ".dmr" / "ingest" / descriptor.digest.hex
        ours.write_bytes(_WEIGHTS + b"!")
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == 0
        assert theirs.exists()
        assert not ours.exists()

    async def test_a_blob_cut_short_is_replaced(self, root: Path) -> None:
        """The reference may publish a blob it never verified."""
        store = await FilesystemModelStore.open(root)
        descriptor = layer_of(_WEIGHTS)
        blob = root / "blobs" / "sha256" / descriptor.digest.hex
        blob.write_bytes(_WEIGHTS[:1])
        with pytest.raises(PreconditionError, match="another size"):
            await store.add(build_artifact([descriptor]))
        await put_blob(store, _WEIGHTS)
        assert blob.read_bytes() == _WEIGHTS


class TestTwoProcesses:
    """Two store objects share nothing but the files, as two processes do."""

    async def test_no_update_is_lost(self, root: Path) -> None:
        stores = [await FilesystemModelStore.open(root) for _ in range(3)]
        artifacts = await asyncio.gather(*(put_model(stores[number % 3], b"GGUF-%d" % number) for number in range(12)))
        for store in stores:
            await store.refresh()
            assert {model.id for model in store.models()} == {artifact.id for artifact in artifacts}

    async def test_refresh_takes_in_what_another_changed(self, root: Path) -> None:
        one, other = await FilesystemModelStore.open(root), await FilesystemModelStore.open(root)
        artifact = await put_model(one, _WEIGHTS)
        before = other.generation
        assert other.models() == ()
        await other.refresh()
        assert other.generation != before
        assert other.models() == one.models()
        assert (await other.tag(artifact.id, _ONE)).tags == (_ONE.canonical,)
        await one.refresh()
        assert one.by_tag(_ONE.canonical) == other.by_tag(_ONE.canonical)

    async def test_a_change_leaves_every_other_model_the_object_it_was(self, root: Path) -> None:
        one, other = await FilesystemModelStore.open(root), await FilesystemModelStore.open(root)
        first, second = await put_model(one, _WEIGHTS), await put_model(one, _WEIGHTS[1:])
        kept = one.by_id(second.id)
        await one.tag(first.id, _ONE)
        await other.untag(_ONE.canonical)
        await one.refresh()
        assert one.by_tag(_ONE.canonical) is None
        assert one.by_id(second.id) is kept

    async def test_a_change_finds_what_another_removed(self, root: Path) -> None:
        one, other = await FilesystemModelStore.open(root), await FilesystemModelStore.open(root)
        artifact = await put_model(one, _WEIGHTS)
        await other.remove(artifact.id)
        with pytest.raises(PreconditionError):
            await one.add(artifact)
        await one.refresh()
        assert one.models() == ()

    async def test_refresh_without_a_change_reads_nothing(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = await FilesystemModelStore.open(root)
        await put_model(store, _WEIGHTS)
        os.utime(root / "models.json", (0, 0))  # long enough ago that another version has another time
        await store.refresh()
        monkeypatch.setattr(store._index, "read", lambda: pytest.fail("the index was read"))
        before = store.generation
        await store.refresh()
        assert store.generation == before

    async def test_a_version_within_the_same_tick_in_the_place_of_the_last_one_is_seen(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        one, other = await put_model(store, b"GGUF-one"), await put_model(store, b"GGUF-two")
        await store.tag(one.id, _ONE)
        index = root / "models.json"
        status = index.stat()
        document = json.loads(index.read_bytes())
        first, second = document["models"]
        first["tags"], second["tags"] = second["tags"], first["tags"]
        index.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
        after = index.stat()
        assert (after.st_size, after.st_ino, after.st_mtime_ns) == (status.st_size, status.st_ino, status.st_mtime_ns)
        await store.refresh()
        found = store.by_tag(_ONE.canonical)
        assert found is not None
        assert found.id == other.id

    async def test_writers_of_one_digest_take_turns(self, root: Path) -> None:
        one, other = await FilesystemModelStore.open(root), await FilesystemModelStore.open(root)
        descriptor = layer_of(_WEIGHTS)
        offsets: list[int] = []

        async def second() -> None:
            async with other.write_blob(descriptor) as writer:
                offsets.append(writer.offset)
                await writer.commit()

        async with one.write_blob(descriptor) as writer:
            task = asyncio.create_task(second())
            for start in range(0, descriptor.size, 1000):
                await writer.write(_WEIGHTS[start : start + 1000])
                await asyncio.sleep(0)
            await writer.commit()
            assert offsets == []
        await task
        assert offsets == [descriptor.size]

    async def test_blocks_are_bounded_whatever_comes_at_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A block is what a process that dies may have to fetch again."""
        store, weights = await FilesystemModelStore.open(root), _WEIGHTS * 512
        blocks: list[int] = []

        def watched(descriptor: int, buffers: list[memoryview], offset: int) -> int:
            blocks.append(sum(map(len, buffers)))
            return pwritev(descriptor, buffers, offset)

        pwritev = os.pwritev
        monkeypatch.setattr(os, "pwritev", watched)
        async with store.write_blob(layer_of(weights)) as writer:
            for start in range(0, len(weights), 700_000):
                await writer.write(weights[start : start + 700_000])
            await writer.commit()
        assert len(blocks) > 1
        assert max(blocks) <= _MEBIBYTE

    async def test_a_lock_that_is_never_released_is_reported(self, root: Path) -> None:
        await FilesystemModelStore.open(root)
        with (root / ".dmr" / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(UnavailableError, match="locked by another process"):
                await FilesystemModelStore.open(root, lock_patience=0)
        await FilesystemModelStore.open(root, lock_patience=0)

    async def test_a_change_waits_for_the_lock(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        with (root / ".dmr" / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            adding = asyncio.create_task(put_model(store, _WEIGHTS))
            done, _ = await asyncio.wait([adding], timeout=0.05)
            assert not done
        await adding
        assert len(store.models()) == 1


class TestCancellation:
    async def test_a_cancelled_change_happens_or_does_not(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        for steps in range(25):
            reference = parse_reference(f"cancelled:v{steps}", ReferencePolicy())
            task = asyncio.create_task(store.tag(artifact.id, reference))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert store.by_tag(reference.canonical) in (None, store.by_id(artifact.id))
            (entry,) = _read_index(root)["models"]
            assert tuple(entry["tags"]) == store.models()[0].tags
        await store.tag(artifact.id, _ONE)

    async def test_a_writer_cancelled_while_it_waits_leaves_the_lock(self, root: Path) -> None:
        one, other = await FilesystemModelStore.open(root), await FilesystemModelStore.open(root)
        descriptor = layer_of(_WEIGHTS)
        async with one.write_blob(descriptor) as writer:
            waiting = asyncio.create_task(put_blob(other, _WEIGHTS))
            await asyncio.wait([waiting], timeout=0.03)
            waiting.cancel()
            await asyncio.wait([waiting])
            await writer.write(_WEIGHTS)
            await writer.commit()
        await put_blob(other, _WEIGHTS)


class TestLeftovers:
    async def test_what_a_killed_process_left_is_harmless(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        temporary, ingest = root / ".dmr" / "tmp", root / ".dmr" / "ingest"
        (temporary / "models.json.x1").write_text('{"models": [')
        (temporary / "bundle.x2" / "model").mkdir(parents=True)
        (temporary / "bundle.x2" / "model" / "model.gguf").hardlink_to(
            root / "blobs" / "sha256" / Digest.of(_WEIGHTS).hex
        )
        fresh, stale = ingest / ("f" * 64), ingest / ("0" * 64)
        for partial in (fresh, stale):
            partial.write_bytes(b"some bytes")
        os.utime(stale, (stale.stat().st_atime, stale.stat().st_mtime - _OLD))

        again = await FilesystemModelStore.open(root)
        assert [model.id for model in again.models()] == [artifact.id]
        assert list(temporary.iterdir()) == []
        assert list(ingest.iterdir()) == [fresh]
        assert (await again.bundle(artifact.id)).gguf is not None

    async def test_what_another_process_is_making_is_left_alone(self, root: Path) -> None:
        await FilesystemModelStore.open(root)
        partial = root / ".dmr" / "ingest" / ("0" * 64)
        partial.write_bytes(b"some bytes")
        os.utime(partial, (0, 0))
        draft = root / ".dmr" / "tmp" / "bundle.x"
        draft.mkdir()
        descriptors = [os.open(path, os.O_RDONLY) for path in (partial, draft)]
        try:
            for descriptor in descriptors:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            await FilesystemModelStore.open(root)
            assert partial.exists()
            assert draft.exists()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        await FilesystemModelStore.open(root)
        assert not partial.exists()
        assert not draft.exists()

    async def test_a_store_emptied_from_outside_goes_on(self, root: Path) -> None:
        """The reference's purge deletes everything below the root, our files too."""
        store = await FilesystemModelStore.open(root)
        await put_model(store, _WEIGHTS)
        _empty(root)
        await store.refresh()
        assert store.models() == ()
        await put_model(store, _WEIGHTS)
        assert len(_read_index(root)["models"]) == 1


class TestDisk:
    async def test_disk_usage_counts_linked_files_once(self, root: Path) -> None:
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        before = await store.disk_usage()
        bundle = await store.bundle(artifact.id)
        assert await store.disk_usage() - before == (bundle.root / "config.json").stat().st_size

    async def test_a_root_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StoreUnwritableError, match=str(tmp_path / "file" / "models")):
            await FilesystemModelStore.open(tmp_path / "file" / "models")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    async def test_a_root_without_permission_says_what_to_do(self, root: Path) -> None:
        _make(root, mode=0o555)
        with pytest.raises(StoreUnwritableError, match="set MODELS_PATH"):
            await FilesystemModelStore.open(root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    require("root", available=os.geteuid() == 0, reason="only root may mount a file system")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=False, capture_output=True
    )
    require("root", available=done.returncode == 0, reason=f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def _fill(disk: Path) -> None:
    """Leave not a byte."""
    with tempfile.NamedTemporaryFile(dir=disk, delete=False, buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.root
class TestSmallDisk:
    async def test_a_blob_that_cannot_fit_is_refused_before_its_first_byte(self, small_disk: Path) -> None:
        store = await FilesystemModelStore.open(small_disk / "models")
        data = bytes(3 * _MEBIBYTE)
        with pytest.raises(StorageFullError, match=f"{len(data)} bytes more are needed") as caught:
            async with store.write_blob(layer_of(data)):
                pass
        assert caught.value.needs == len(data)
        assert caught.value.has is not None
        assert caught.value.has <= 2 * _MEBIBYTE
        assert _files(small_disk / "models" / ".dmr") == {"lock", "reserve"}
        with pytest.raises(StorageFullError):
            await store.require_space([layer_of(data)])

    async def test_what_a_blob_will_need_is_its_own_from_the_start(self, small_disk: Path) -> None:
        store = await FilesystemModelStore.open(small_disk / "models")
        data = os.urandom(_MEBIBYTE * 3 // 2)
        descriptor, filler = layer_of(data), small_disk / "filler"
        async with store.write_blob(descriptor) as writer:
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(_MEBIBYTE))
            await writer.write(data[: len(data) // 2])
        filler.unlink()
        filler.write_bytes(bytes(_MEBIBYTE // 2))  # what was not written was given back
        filler.unlink()
        await store.require_space([descriptor])  # and what was written is not needed twice
        async with store.write_blob(descriptor) as writer:
            assert writer.offset == len(data) // 2
            await writer.write(data[writer.offset :])
            await writer.commit()
        assert b"".join([chunk async for chunk in store.read_blob(descriptor.digest)]) == data

    async def test_a_model_that_cannot_be_recorded_is_not_added(self, small_disk: Path) -> None:
        root = small_disk / "models"
        store = await FilesystemModelStore.open(root)
        await put_blob(store, _WEIGHTS)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(4 * _MEBIBYTE))
        artifact = build_artifact([layer_of(_WEIGHTS)])
        before = _files(root)
        with pytest.raises(StorageFullError):
            await store.add(artifact)
        assert store.models() == ()
        assert _files(root) == before
        filler.unlink()
        await store.add(artifact)

    async def test_a_full_disk_lets_models_be_used_and_removed(self, small_disk: Path) -> None:
        """The advice is to remove models, so that must be possible; and what is here can be served."""
        root = small_disk / "models"
        store = await FilesystemModelStore.open(root)
        kept, gone = [await put_model(store, _WEIGHTS + name) for name in (b"kept", b"gone")]
        for artifact, name in ((kept, "kept"), (gone, "gone")):
            await store.tag(artifact.id, parse_reference(name, ReferencePolicy()))
        _fill(small_disk)
        with pytest.raises(StorageFullError):
            await store.tag(kept.id, _ONE)
        for _ in range(3):  # each needs room, and gives it back
            async with store.lease([kept.id]):
                assert kept.id in leased_digests(StoreLayout(root))
        assert await store.remove(gone.id)
        _fill(small_disk)
        await store.untag(parse_reference("kept", ReferencePolicy()).canonical)
        _fill(small_disk)
        other = await FilesystemModelStore.open(root)
        assert [model.id for model in other.models()] == [kept.id]
        await FilesystemStoreMaintenance(root).collect(everything=True)
        await other.refresh()
        assert other.models() == ()

    async def test_a_full_disk_can_be_purged(self, small_disk: Path) -> None:
        root = small_disk / "models"
        await put_model(await FilesystemModelStore.open(root), _WEIGHTS)
        _fill(small_disk)
        await FilesystemStoreMaintenance(root).clear()
        assert (await FilesystemModelStore.open(root)).models() == ()
        assert (root / ".dmr" / "reserve").stat().st_blocks > 0

    async def test_a_lease_that_does_not_fit_is_none(self, small_disk: Path) -> None:
        """A part of one would let the rest be collected."""
        root = small_disk / "models"
        store = await FilesystemModelStore.open(root)
        (root / ".dmr" / "reserve").unlink(missing_ok=True)
        with (root / ".dmr" / "leases").parent.joinpath("filler").open("wb", buffering=0) as file:
            left = os.statvfs(root)
            with suppress(OSError):
                file.write(bytes((left.f_bavail - 2) * left.f_frsize))  # the directory, and one page
        digests = [Digest.of(bytes([number])) for number in range(200)]
        with pytest.raises(StorageFullError):
            async with store.lease(digests):
                pass
        assert not list((root / ".dmr" / "leases").glob("*"))

    async def test_a_disk_that_turns_read_only_is_reported(self, small_disk: Path) -> None:
        root = small_disk / "models"
        store = await FilesystemModelStore.open(root)
        artifact = await put_model(store, _WEIGHTS)
        _make_read_only(small_disk)
        with pytest.raises(StoreUnwritableError, match="set MODELS_PATH"):
            await store.tag(artifact.id, _ONE)
        with pytest.raises(StoreUnwritableError):
            await put_blob(store, b"more")
        with pytest.raises(StoreUnwritableError, match=str(root)):
            await FilesystemModelStore.open(root)
        assert [model.tags for model in store.models()] == [()]
