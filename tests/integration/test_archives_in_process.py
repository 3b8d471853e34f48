"""The routes that export and repackage models."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Message

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.leases import live_leases
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_cli.server.bootstrap import Overrides, Service, open_service
from dmr_core.domain.archive import blob_name
from dmr_core.domain.digest import Digest
from dmr_core.domain.settings import Settings
from dmr_core.errors import MalformedArtifactError
from dmr_core.services.loading import LoadingService
from dmr_core.testing.contracts.samples import put_model
from dmr_core.testing.fakes.process import FakeProcessSupervisor
from dmr_core.testing.fakes.registry import InMemoryRegistry
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import call

WEIGHTS, LICENSE = b"GGUF" * 1000, b"MIT"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    overrides = Overrides(
        registry=InMemoryRegistry(),
        transport=InMemoryTransport(),
        processes=FakeProcessSupervisor(),
        entry_points=(),
    )
    async with open_service(Settings(models_path=tmp_path / "models"), overrides) as made:
        artifact = await put_model(made.services.store, WEIGHTS, LICENSE)
        await made.services.catalog.tag(str(artifact.id), "org/mine")
        yield made


async def test_an_export_is_as_long_as_it_says_and_in_the_reference_s_order(service: Service) -> None:
    (model,) = service.services.store.models()

    answer = await call(service.app, "GET", "/models/org/mine/export")
    head = await call(service.app, "HEAD", "/models/org/mine/export")

    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        members = [(member.name, member.mode, member.mtime) for member in tar.getmembers()]
    blobs = [(blob_name(blob.digest), 0o666, 0) for blob in model.manifest.blobs]
    directories = [("blobs", 0o755, 0), ("blobs/sha256", 0o755, 0)]
    assert members == [*directories, *blobs, ("manifest.json", 0o666, 0)]
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == 'attachment; filename="org/mine.tar"'
    assert answer.headers["content-length"] == head.headers["content-length"] == str(len(answer.body))
    assert (head.status, head.body) == (200, b"")


async def test_a_client_that_leaves_an_export_leaves_no_lease(service: Service, tmp_path: Path) -> None:
    await call(service.app, "GET", "/models/org/mine/export", leave_after=2)

    assert list(live_leases(StoreLayout(tmp_path / "models"))) == []


async def test_nothing_more_is_read_for_a_client_that_left(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    read, left, sent = 0, asyncio.Event(), 0

    async def slowly(digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        nonlocal read
        content = service.services.store.blob_file(digest).read_bytes()
        for start in range(0, len(content), 4):
            read += 1
            yield content[start : start + 4]
            await asyncio.sleep(0)

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal sent
        sent += 1
        if sent == 20:
            left.set()

    monkeypatch.setattr(service.services.store, "read_blob", slowly)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/models/org/mine/export",
        "raw_path": b"/models/org/mine/export",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 12434),
        "state": {},
    }
    await service.app(scope, receive, send)
    assert left.is_set()
    assert read < 30, "of a thousand pieces"


async def test_a_damaged_model_is_refused_before_its_export_begins_and_loading_it_again_heals_it(
    service: Service,
) -> None:
    store = service.services.store
    whole = (await call(service.app, "GET", "/models/org/mine/export")).body
    weights = store.blob_file(Digest.of(WEIGHTS))
    weights.chmod(0o644)
    os.truncate(weights, 10)

    answer = await call(service.app, "GET", "/models/org/mine/export")
    assert answer.status == 412
    assert "is damaged; `dmr system check --repair` tells more" in answer.text

    assert (await call(service.app, "POST", "/models/load", whole)).status == 200
    assert weights.read_bytes() == WEIGHTS


async def test_an_archive_cut_off_at_any_block_adds_no_model(service: Service, tmp_path: Path) -> None:
    whole = (await call(service.app, "GET", "/models/org/mine/export")).body
    store = await FilesystemModelStore.open(tmp_path / "empty")
    loading = LoadingService(store, decode_manifest=decode_manifest, decode_config=decode_config)

    async def pieces(end: int) -> AsyncIterator[bytes]:
        yield whole[:end]

    end_marker = 2 * 512
    for end in range(0, len(whole) - end_marker, 512):
        with pytest.raises(MalformedArtifactError):
            await loading.load(pieces(end))
    assert store.models() == ()
    assert (await loading.load(pieces(len(whole)))).id == service.services.store.models()[0].id


async def test_repackaging_answers_as_the_reference_does(service: Service) -> None:
    answer = await call(service.app, "POST", "/models/org/mine/repackage", {"target": "new:v1", "context_size": 4096})
    variant = (await call(service.app, "GET", "/models/new:v1")).json()

    assert answer.status == 201
    assert answer.json() == {
        "message": 'Model repackaged successfully as "new:v1"',
        "source": "org/mine",
        "target": "new:v1",
        "id": variant["id"],
    }
    assert variant["config"]["context_size"] == 4096


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("org/mine", b"{", 400, "invalid request body: "),
        ("org/mine", b"{}", 400, "target is required"),
        ("org/mine", b'{"target":"a@b@c"}', 400, ""),
        ("org/mine", b'{"target":"new","context_size":4294967296}', 400, "context size 4294967296 is out of range"),
        ("nope", b'{"target":"new"}', 404, "get model '\"nope\"': model not found"),
    ],
)
async def test_what_cannot_be_repackaged_is_refused(
    service: Service, path: str, body: bytes, status: int, text: str
) -> None:
    answer = await call(service.app, "POST", f"/models/{path}/repackage", body)

    assert answer.status == status
    assert answer.text.startswith(text)
    assert len(service.services.store.models()) == 1


async def test_a_model_that_is_not_there_is_not_exported(service: Service) -> None:
    for method in ("GET", "HEAD"):
        assert (await call(service.app, method, "/models/nope/export")).status == 404


async def test_the_place_of_the_store_is_shown_by_a_file(service: Service, tmp_path: Path) -> None:
    nonce = "0123456789abcdef" * 2
    place = f"/dmr/v1/store?nonce={nonce}"

    before = (await call(service.app, "GET", place)).json()
    (tmp_path / "models" / ".dmr" / "tmp" / f"nonce-{nonce}").touch()
    after = (await call(service.app, "GET", place)).json()

    root = str(tmp_path / "models")
    assert (before, after) == ({"root": root, "present": False}, {"root": root, "present": True})
    assert (await call(service.app, "GET", "/dmr/v1/store?nonce=../../x")).status == 403
