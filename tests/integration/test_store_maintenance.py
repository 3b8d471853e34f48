"""Looking after a store on a real file system, that others use meanwhile."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.importing import FilesystemBlobImporter
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_adapters.model_store.maintenance.leftovers import delete_abandoned
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.domain.reference import Reference, ReferencePolicy, parse_reference
from dmr_core.domain.store_report import CheckProgress, CheckReport, FindingKind, GarbageKind
from dmr_core.errors import PreconditionError, StoreUnwritableError
from dmr_core.testing.contracts.model_store import layer_of, put_blob, put_model

_DAY = 24 * 3600.0


def named(text: str) -> Reference:
    return parse_reference(text, ReferencePolicy())


def blob(root: Path, data: bytes) -> Path:
    return root / "blobs" / "sha256" / Digest.of(data).hex


def spoil(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def kinds(report: CheckReport) -> list[FindingKind]:
    return [finding.kind for finding in report.findings]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def names_of_entries(root: Path) -> list[Path]:
    return sorted((root / ".dmr" / "quarantine").glob("entry-*.json"))


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def snapshot(paths: Iterable[Path]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths}


@pytest.fixture
async def store(tmp_path: Path) -> FilesystemModelStore:
    return await FilesystemModelStore.open(tmp_path)


@pytest.fixture
def maintenance(tmp_path: Path, store: FilesystemModelStore) -> FilesystemStoreMaintenance:
    return FilesystemStoreMaintenance(tmp_path)


# --- collecting -------------------------------------------------------------------------------------


async def test_what_is_not_the_stores_survives_every_collection_and_is_only_noted(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_model(store, b"GGUF")
    foreign = [
        tmp_path / "README",
        tmp_path / "blobs" / "sha256" / "notes.txt",
        tmp_path / "blobs" / "sha256" / ("A" * 64),
        tmp_path / "manifests" / "sha256" / "backup.json",
        tmp_path / ".dmr" / "ingest" / "mine",
        tmp_path / "more" / "file",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name)
        age(path, 100 * _DAY)
    directory = tmp_path / "blobs" / "sha256" / ("0" * 64)
    directory.mkdir()
    outside = tmp_path / "bundles" / "sha256" / ("0" * 64)
    outside.parent.mkdir(parents=True)
    outside.symlink_to(tmp_path / "more")
    before = snapshot(foreign)
    await maintenance.collect(partials_older_than=0.0, everything=True)
    assert snapshot(foreign) == before
    assert directory.is_dir()
    assert outside.is_symlink()
    report = await maintenance.check(repair=True)
    assert report.is_clean
    assert kinds(report).count(FindingKind.FOREIGN) == 8
    await maintenance.clear()
    assert (tmp_path / "README").exists()
    assert (tmp_path / "more" / "file").exists()


async def test_a_partial_goes_with_its_journal_when_it_is_old_and_nobody_writes_it(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    data = bytes(5 * 1024 * 1024)
    async with store.write_blob(layer_of(data)) as writer, writer.part(2 * 1024 * 1024) as part:
        await part.write(data[: 2 * 1024 * 1024])
    partial, journal = sorted((tmp_path / ".dmr" / "ingest").iterdir())
    assert journal.suffix == ".parts"
    age(partial, 2 * _DAY)
    assert (await maintenance.collect()).count == 0, "the journal is young"
    age(journal, 2 * _DAY)
    async with store.write_blob(layer_of(data)) as writer:
        age(partial, 2 * _DAY)
        age(journal, 2 * _DAY)
        collection = await maintenance.collect()
        assert (collection.count, collection.kept) == (0, 1)
        assert writer.resumed
    age(partial, 2 * _DAY)
    age(journal, 2 * _DAY)
    (await maintenance.collect(dry_run=True)).of(GarbageKind.PARTIAL)
    gone = (await maintenance.collect()).of(GarbageKind.PARTIAL)
    assert gone.count == 1
    assert 2 * 1024 * 1024 <= gone.size < 5 * 1024 * 1024, "what it takes of the disk, gaps excluded"
    assert list((tmp_path / ".dmr" / "ingest").iterdir()) == []


async def test_what_the_reference_is_pulling_stays(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    """It takes no leases, and its first blobs are there long before their model."""
    await put_blob(store, b"its first layer")
    incomplete = tmp_path / "blobs" / "sha256" / f"{'1' * 64}.incomplete"
    incomplete.write_bytes(b"its second")
    collection = await maintenance.collect()
    assert (collection.count, collection.kept) == (0, 1)
    age(incomplete, 2 * _DAY)
    collection = await maintenance.collect()
    assert [entry.kind for entry in collection.collected] == [GarbageKind.BLOB, GarbageKind.PARTIAL]
    assert list(incomplete.parent.iterdir()) == []


async def test_leftovers_of_killed_processes_are_collected(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    (tmp_path / ".dmr" / "tmp" / "models.json.abc").write_text("{")
    draft = tmp_path / ".dmr" / "tmp" / "draft"
    draft.mkdir()
    (draft / "file").write_text("x")
    stray = tmp_path / "manifests" / "sha256" / f"{artifact.id.hex}.tmp-123"
    stray.write_text("{")
    age(stray, _DAY)
    bundle = await store.bundle(artifact.id)
    shutil.copytree(bundle.root, bundle.root.parent / ("2" * 64))
    collection = await maintenance.collect()
    assert {entry.kind: entry.count for entry in collection.collected} == {
        GarbageKind.TEMPORARY: 3,
        GarbageKind.BUNDLE: 1,
    }
    assert (await store.bundle(artifact.id)).gguf is not None
    assert not stray.exists()


async def test_a_bundle_that_is_being_made_is_not_a_leftover(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    draft = tmp_path / ".dmr" / "tmp" / "draft"
    draft.mkdir()
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        await maintenance.collect(everything=True)
        assert draft.is_dir()
    finally:
        os.close(descriptor)


async def test_nothing_is_collected_while_nobody_knows_what_is_needed(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_model(store, b"GGUF")
    (tmp_path / "models.json").write_text('{"models": [{"id": "sha256:')
    before = snapshot(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    with pytest.raises(PreconditionError, match="damaged"):
        await maintenance.collect(everything=True)
    assert snapshot(before) == before


async def test_what_an_entry_nobody_understands_names_is_kept(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_blob(store, b"of a newer version")
    index = tmp_path / "models.json"
    index.write_text(
        json.dumps({"models": [{"kind": "new", "parts": [{"at": str(Digest.of(b"of a newer version"))}]}]})
    )
    await maintenance.collect(everything=True)
    assert await store.has_blob(Digest.of(b"of a newer version"))


async def test_a_model_that_is_in_no_index_goes_only_when_everything_may(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    (tmp_path / "models.json").write_text('{"models": null}')
    assert (await maintenance.collect()).count == 0
    assert kinds(await maintenance.check()) == [FindingKind.UNLISTED]
    assert (await maintenance.collect(everything=True)).models == (artifact.id,)
    assert not await store.has_blob(Digest.of(b"GGUF"))


# --- checking ---------------------------------------------------------------------------------------


async def test_hashing_does_not_keep_others_out(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_model(store, b"GGUF")
    locked: list[bool] = []

    def try_lock(_progress: CheckProgress) -> None:
        with (tmp_path / ".dmr" / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(True)
            else:
                locked.append(False)

    await maintenance.check(progress=try_lock)
    assert locked
    assert not any(locked)


async def test_a_cancelled_check_leaves_nothing_open(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_model(store, bytes(3 * 1024 * 1024))
    descriptors = set(os.listdir("/proc/self/fd"))
    for turns in range(0, 60, 3):
        task = asyncio.create_task(maintenance.check(repair=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(set(os.listdir("/proc/self/fd")) - descriptors) <= 1  # the listing's own
    await put_model(store, b"GGUF")


async def test_a_bundle_of_a_damaged_blob_is_not_used_again(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF-right")
    await store.tag(artifact.id, named("one"))
    await store.bundle(artifact.id)
    spoil(blob(tmp_path, b"GGUF-right"), b"GGUF-wrong")  # the bundle's file too: it is the same
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    await put_blob(store, b"GGUF-right")
    await store.add(artifact)
    bundle = await store.bundle(artifact.id)
    assert bundle.gguf is not None
    assert bundle.gguf.read_bytes() == b"GGUF-right"


async def test_a_bundle_that_leads_elsewhere_is_found_and_made_anew(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    one, other = await put_model(store, b"GGUF-one"), await put_model(store, b"GGUF-two")
    linked, copied = (await store.bundle(one.id)).gguf, (await store.bundle(other.id)).gguf
    assert linked is not None
    assert copied is not None
    (tmp_path / "elsewhere").write_bytes(b"GGUF-bad")
    linked.unlink()
    linked.symlink_to(tmp_path / "elsewhere")
    copied.unlink()
    copied.write_bytes(b"GGUF-bad")
    assert kinds(await maintenance.check(deep=False)) == [FindingKind.BUNDLE, FindingKind.FOREIGN]
    report = await maintenance.check(repair=True)
    assert kinds(report) == [FindingKind.BUNDLE, FindingKind.BUNDLE, FindingKind.FOREIGN]
    assert report.is_clean
    for artifact, data in ((one, b"GGUF-one"), (other, b"GGUF-two")):
        made = (await store.bundle(artifact.id)).gguf
        assert made is not None
        assert made.read_bytes() == data


async def test_a_bundle_of_copies_is_as_good_as_one_of_links(
    store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    """Where the file system has no links."""
    artifact = await put_model(store, b"GGUF")
    gguf = (await store.bundle(artifact.id)).gguf
    assert gguf is not None
    gguf.unlink()
    gguf.write_bytes(b"GGUF")
    report = await maintenance.check()
    assert report.findings == ()
    assert (await maintenance.usage()).bundles >= len(b"GGUF")


async def test_a_manifest_that_lies_about_a_size_does_not_cost_a_good_blob(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    document = json.loads(artifact.manifest_bytes)
    document["layers"][0]["size"] += 1
    content = json.dumps(document).encode()
    (tmp_path / "manifests" / "sha256" / Digest.of(content).hex).write_bytes(content)
    index = json.loads((tmp_path / "models.json").read_text())
    index["models"].append({**index["models"][0], "id": str(Digest.of(content))})
    (tmp_path / "models.json").write_text(json.dumps(index))
    for deep in (False, True):
        (finding,) = (await maintenance.check(deep=deep)).remaining
        assert (finding.kind, finding.models) == (FindingKind.MANIFEST_DAMAGED, (str(Digest.of(content)),))
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    assert [model.id for model in store.models()] == [artifact.id]
    assert await store.has_blob(Digest.of(b"GGUF"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: text.rindex('"files"')],
        lambda text: text[:-20] + "\0" * 20,
        lambda text: "[" + text,
        lambda text: text.replace('"models"', '"models'),
    ],
)
async def test_a_damaged_index_is_kept_and_what_can_be_read_of_it_is_used(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance, damage: object
) -> None:
    one, other = await put_model(store, b"GGUF-one"), await put_model(store, b"GGUF-two")
    await store.tag(one.id, named("one"))
    await store.tag(other.id, named("two"))
    assert callable(damage)
    damaged = damage((tmp_path / "models.json").read_text())
    (tmp_path / "models.json").write_text(damaged)
    report = await maintenance.check()
    assert kinds(report)[0] is FindingKind.INDEX_DAMAGED
    assert not report.is_clean
    assert (await maintenance.check(repair=True)).is_clean
    opened = await FilesystemModelStore.open(tmp_path)
    assert {model.id for model in opened.models()} == {one.id, other.id}
    assert opened.by_tag(named("one").canonical) is not None
    (kept,) = (tmp_path / ".dmr" / "quarantine").glob("index-*.json")
    assert kept.read_text() == damaged


async def test_a_missing_index_is_made_of_the_manifests_there_are(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    (tmp_path / "models.json").unlink()
    (tmp_path / "layout.json").unlink()
    report = await maintenance.check()
    assert {finding.kind for finding in report.remaining} == {FindingKind.LAYOUT, FindingKind.INDEX_MISSING}
    assert (await maintenance.check(repair=True)).is_clean
    assert [model.id for model in (await FilesystemModelStore.open(tmp_path)).models()] == [artifact.id]
    assert json.loads((tmp_path / "layout.json").read_text()) == {"version": "1.0.0"}


async def test_a_model_that_is_complete_again_gets_its_tags_back_unless_others_have_them(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF-one")
    for tag in ("one:a", "one:b", "one:c"):
        await store.tag(artifact.id, named(tag))
    blob(tmp_path, b"GGUF-one").unlink()
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    assert store.models() == ()
    await maintenance.collect(partials_older_than=0.0)
    other = await put_model(store, b"GGUF-two")
    await store.tag(other.id, named("one:b"))
    await put_blob(store, b"GGUF-one")
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    tags = {model.id: model.tags for model in store.models()}
    assert tags == {
        other.id: (named("one:b").canonical,),
        artifact.id: (named("one:a").canonical, named("one:c").canonical),
    }
    assert list((tmp_path / ".dmr" / "quarantine").iterdir()) == []


async def test_what_was_set_aside_goes_once_its_model_is_back(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF-right")
    await store.tag(artifact.id, named("one"))
    spoil(blob(tmp_path, b"GGUF-right"), b"GGUF-wrong")
    await maintenance.check(repair=True)
    assert (await maintenance.collect()).count == 0
    assert len(list((tmp_path / ".dmr" / "quarantine").iterdir())) == 2
    await store.refresh()
    await put_blob(store, b"GGUF-right")
    await store.add(artifact)
    await store.tag(artifact.id, named("one"))
    assert (await maintenance.collect()).of(GarbageKind.QUARANTINE).count == 2
    assert list((tmp_path / ".dmr" / "quarantine").iterdir()) == []


async def test_a_manifest_of_a_newer_kind_is_left_alone(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    content = b'{"schemaVersion": 3, "parts": []}'
    (tmp_path / "manifests" / "sha256" / Digest.of(content).hex).write_bytes(content)
    index = {"models": [{"id": str(Digest.of(content)), "tags": ["docker.io/ai/new:latest"], "files": []}]}
    (tmp_path / "models.json").write_text(json.dumps(index))
    report = await maintenance.check(repair=True)
    assert report.is_clean
    assert kinds(report) == [FindingKind.UNSUPPORTED]
    assert json.loads((tmp_path / "models.json").read_text()) == index


async def test_a_blob_that_cannot_be_read_is_told_apart_and_set_aside(
    tmp_path: Path,
    store: FilesystemModelStore,
    maintenance: FilesystemStoreMaintenance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk with bad sectors."""
    await put_model(store, b"GGUF-good")
    await put_model(store, b"GGUF-on bad sectors")
    bad, read = blob(tmp_path, b"GGUF-on bad sectors").stat().st_ino, os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    (finding,) = (await maintenance.check()).remaining
    assert (finding.kind, finding.problem) == (FindingKind.BLOB_UNREADABLE, "cannot be read: Input/output error")
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    assert len(store.models()) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
async def test_what_may_be_read_another_time_is_no_reason_to_take_a_model_away(
    tmp_path: Path,
    store: FilesystemModelStore,
    maintenance: FilesystemStoreMaintenance,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    await put_model(store, b"GGUF-good")
    here, opened = blob(tmp_path, b"GGUF-good"), os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path) == str(here):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        (finding,) = (await maintenance.check(repair=True)).remaining
    assert (finding.kind, finding.repaired) == (FindingKind.BLOB_UNREADABLE, "")
    assert "nothing was changed" in finding.advice
    assert here.exists()
    assert (await maintenance.check()).is_clean
    await store.refresh()
    assert len(store.models()) == 1


@pytest.mark.parametrize("what", ["lease", "leases", "manifest", "blobs"])
async def test_nothing_is_collected_while_something_cannot_be_looked_at(
    tmp_path: Path,
    store: FilesystemModelStore,
    maintenance: FilesystemStoreMaintenance,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """A process without a descriptor left must not take what it cannot open for what is not there."""
    await put_model(store, b"GGUF-good")
    leased = layer_of(b"leased")
    await put_blob(store, b"leased")
    paths = {"leases": tmp_path / ".dmr" / "leases", "blobs": tmp_path / "blobs" / "sha256"}

    def unlucky(function: Any) -> Any:
        def failing(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            inside = str(path).startswith(str(paths["leases"]) + os.sep)
            named = {"lease": inside, "manifest": f"{os.sep}manifests{os.sep}sha256{os.sep}" in str(path)}
            if named.get(what, str(path) == str(paths.get(what))):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
            return function(path, *args, **kwargs)

        return failing

    async with store.lease([leased.digest]):
        with monkeypatch.context() as patched:
            for name in ("open", "listdir", "scandir"):
                patched.setattr(os, name, unlucky(getattr(os, name)))
            patched.setattr(io, "open", unlucky(io.open))
            with pytest.raises(StoreUnwritableError, match="open files"):
                await maintenance.collect(everything=True)
        assert store.blob_file(leased.digest).exists()
    assert (await maintenance.check()).is_clean


def test_what_cannot_be_opened_is_not_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_ = tmp_path / "import.x"
    import_.write_bytes(b"somebody's")

    def refused(path: Any, *_: Any) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refused)
    assert not delete_abandoned(import_)
    assert import_.exists()


async def test_entries_that_name_no_model_are_set_aside_and_the_others_stay(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    await put_blob(store, b"theirs")
    index = json.loads((tmp_path / "models.json").read_text())
    strange = [None, {"id": "md5:abc", "files": [str(Digest.of(b"theirs"))]}]
    (tmp_path / "models.json").write_text(json.dumps({"models": [*index["models"], *strange]}))
    assert [finding.kind for finding in (await maintenance.check()).remaining] == [FindingKind.INDEX_ENTRY]
    assert (await maintenance.check(repair=True)).is_clean
    await store.refresh()
    assert [model.id for model in store.models()] == [artifact.id]
    assert json.loads((tmp_path / "models.json").read_text()) == index
    kept = [json.loads(path.read_text())["record"] for path in names_of_entries(tmp_path)]
    assert sorted(kept, key=str) == sorted(strange, key=str)
    await maintenance.collect()
    assert await store.has_blob(Digest.of(b"theirs"))


async def test_opening_a_store_sweeps_old_partials_unless_they_are_leased(
    tmp_path: Path, store: FilesystemModelStore
) -> None:
    ingest, blobs = tmp_path / ".dmr" / "ingest", tmp_path / "blobs" / "sha256"
    names = {data: Digest.of(data).hex for data in (b"old", b"leased", b"young", b"in part")}
    for data, name in names.items():
        (ingest / name).write_bytes(data)
        (blobs / f"{name}.incomplete").write_bytes(data)
        if data != b"young":
            age(ingest / name, 8 * _DAY)
            age(blobs / f"{name}.incomplete", 8 * _DAY)
    (ingest / f"{names[b'in part']}.parts").write_text("young")
    (ingest / f"{names[b'old']}.parts").write_text("old")
    age(ingest / f"{names[b'old']}.parts", 8 * _DAY)
    async with store.lease([Digest.of(b"leased")]):
        await FilesystemModelStore.open(tmp_path)
    part = names[b"in part"]
    assert names_in(ingest) == sorted([names[b"leased"], names[b"young"], part, f"{part}.parts"])
    assert names_in(blobs) == sorted(f"{names[data]}.incomplete" for data in (b"leased", b"young"))


async def test_a_store_of_a_newer_layout_is_not_touched(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    await put_blob(store, b"loose")
    (tmp_path / "layout.json").write_text('{"version": "2.0.0"}')
    for work in (maintenance.collect(everything=True), maintenance.check(repair=True), maintenance.usage()):
        with pytest.raises(PreconditionError, match=r"2\.0\.0"):
            await work
    assert await store.has_blob(Digest.of(b"loose"))


# --- emptying and measuring -------------------------------------------------------------------------


async def test_a_directory_that_is_no_store_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    maintenance = FilesystemStoreMaintenance(tmp_path)
    with pytest.raises(PreconditionError) as refusal:
        await maintenance.clear()
    assert (
        f'refusing to reset: directory "{tmp_path}" does not appear to be a model store (missing layout.json)'
        == refusal.value.message
    )
    assert names_in(tmp_path) == ["thesis.tex"]
    for work in (maintenance.collect(), maintenance.check(repair=True), maintenance.usage()):
        with pytest.raises(PreconditionError, match="no model store"):
            await work
    assert names_in(tmp_path) == ["thesis.tex"]


async def test_emptying_keeps_settings_and_gives_back_everything_else(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF")
    await store.bundle(artifact.id)
    (tmp_path / ".dmr" / "config.json").write_text("{}")
    (tmp_path / "models.json.tmp-123").write_text("{")
    async with store.write_blob(layer_of(b"partial")) as writer:
        await writer.write(b"part")
    spoil(blob(tmp_path, b"GGUF"), b"FUGG")
    await maintenance.check(repair=True)
    await maintenance.clear()
    assert files_below(tmp_path) == {"layout.json", "models.json", ".dmr/lock", ".dmr/reserve", ".dmr/config.json"}
    assert json.loads((tmp_path / "models.json").read_text()) == {"models": []}


async def test_usage_counts_a_file_once_however_many_names_it_has(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    weights = b"GGUF" * 1000
    artifact = await put_model(store, weights)
    before = await maintenance.usage()
    await store.bundle(artifact.id)
    after = await maintenance.usage()
    config = (tmp_path / "bundles" / "sha256" / artifact.id.hex / "config.json").stat().st_size
    assert after.total - before.total == config == after.bundles
    assert after.total == await store.disk_usage()
    assert after.models[0].size == before.models[0].size + config


# --- files that are linked --------------------------------------------------------------------------


async def linked_model(root: Path, store: FilesystemModelStore) -> Path:
    """A model whose weights are somebody's own file."""
    source = root / "mine.gguf"
    source.write_bytes(b"GGUF-right")
    async with FilesystemBlobImporter(root).begin(link=True) as importing:
        await importing.take(source, RelativePath.parse("model.gguf"))
        await importing.publish()
        artifact = await put_model(store, b"GGUF-right")
        await store.tag(artifact.id, named("mine"))
        await store.bundle(artifact.id)  # one more name of the same file
    assert blob(root, b"GGUF-right").samefile(source)
    return source


@pytest.mark.parametrize("content", [b"GGUF-wrong", b"GGUF, longer than it was"], ids=["as long", "longer"])
async def test_a_linked_file_that_was_changed_is_found_and_said_to_be_that(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance, content: bytes
) -> None:
    source = await linked_model(tmp_path, store)
    assert (await maintenance.check()).is_clean
    source.write_bytes(content)

    found = (await maintenance.check()).findings[0]
    mended = (await maintenance.check(repair=True)).findings[0]

    assert found.models == (named("mine").canonical,)
    assert found.advice.startswith("a file of yours that was linked into the store")
    assert "package the model again" in mended.advice
    assert mended.repaired
    assert source.read_bytes() == content
    assert not blob(tmp_path, b"GGUF-right").exists()


async def test_a_damaged_blob_that_only_a_bundle_shares_is_not_taken_for_a_linked_file(
    tmp_path: Path, store: FilesystemModelStore, maintenance: FilesystemStoreMaintenance
) -> None:
    artifact = await put_model(store, b"GGUF-right")
    await store.tag(artifact.id, named("mine"))
    await store.bundle(artifact.id)
    assert blob(tmp_path, b"GGUF-right").stat().st_nlink == 2
    spoil(blob(tmp_path, b"GGUF-right"), b"GGUF-wrong")

    found = (await maintenance.check()).findings[0]

    assert "pull the model again" in found.advice
