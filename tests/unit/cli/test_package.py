"""Packaging files and sending them to the service."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.stand_ins.canned_server import Answer, CannedServer, Request
from tests.unit.cli.conftest import Dmr

LOADED = Answer(body=b'{"type":"success","message":"Model loaded successfully"}\n')


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """The smallest safetensors model: one tensor of one number, its configuration, a copy of that."""
    directory = tmp_path / "model"
    directory.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (directory / "config.json").write_text("{}")
    (directory / "generation_config.json").write_text("{}")
    return directory


@pytest.fixture(autouse=True)
def _epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def service(server: CannedServer) -> CannedServer:
    server.on("GET", "/version", {"version": "0.1.0"})
    server.on("POST", "/models/load", LOADED)
    return server


def _upload(service: CannedServer) -> Request:
    return next(request for request in service.requests if request.path == "/models/load")


def test_a_directory_becomes_a_model(
    service: CannedServer, dmr: Dmr, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_directory.parent)

    # The name of the route holds the ID, which the manifest decides.
    refused = dmr("package", "--safetensors-dir", "model", "-q", "org/mine:v1")
    upload = _upload(service)
    with tarfile.open(fileobj=io.BytesIO(upload.body)) as archive:
        names = archive.getnames()
        contents = {name: file.read() for name in names if (file := archive.extractfile(name))}
    manifest = contents["manifest.json"]
    model_id = "sha256:" + hashlib.sha256(manifest).hexdigest()
    service.on("POST", f"/models/{model_id}/tag", Answer(201, b"{}"))
    outcome = dmr("package", "--safetensors-dir", "model", "-q", "org/mine:v1")

    assert (refused.code, refused.err) == (3, f"Error: no such model: {model_id}\n")
    assert outcome == (0, f'Model "org/mine:v1" packaged successfully as {model_id}\n', "")
    assert upload.headers["content-type"] == "application/x-tar"
    assert service.requests[-1].path == f"/models/{model_id}/tag?repo=org%2Fmine&tag=v1"
    assert names[:2] == ["blobs", "blobs/sha256"]
    assert len(names) == len(set(names))
    for name, content in contents.items():
        assert name == "manifest.json" or name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    described = {layer["digest"] for layer in json.loads(manifest)["layers"]}
    assert {f"sha256:{name.rpartition('/')[2]}" for name in contents} > described


def test_progress_and_push_and_json(service: CannedServer, dmr: Dmr, model_directory: Path) -> None:
    source = ("--safetensors-dir", str(model_directory))
    dmr("package", "-q", *source, "mine")
    with tarfile.open(fileobj=io.BytesIO(_upload(service).body)) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        model_id = "sha256:" + hashlib.sha256(manifest.read()).hexdigest()
    service.on("POST", f"/models/{model_id}/tag", Answer(201, b"{}"))
    service.on("POST", "/models/mine/push", Answer(body=b'{"type":"success","message":"Model pushed successfully"}\n'))

    outcome = dmr("package", *source, "--push", "mine")
    as_json = dmr("package", *source, "--push", "--json", "-q", "mine")

    assert outcome.out == f'Model "mine" packaged successfully as {model_id}\nModel pushed successfully\n'
    assert "Read " in outcome.err
    assert "Uploaded " in outcome.err
    assert json.loads(as_json.out) == {"model": "mine", "id": model_id, "pushed": True}


@pytest.mark.parametrize(
    "arguments",
    [
        ("mine",),
        ("--gguf", __file__, "--dduf", __file__, "mine"),
        ("--gguf", "/nowhere/x.gguf", "mine"),
        ("--gguf", __file__, "--context-size", "0", "mine"),
        ("--gguf", __file__, "--format", "other", "mine"),
        ("--gguf", __file__, "mine@sha256:0"),
        ("--gguf", __file__, ""),
    ],
)
def test_what_makes_no_sense_is_refused(service: CannedServer, dmr: Dmr, arguments: tuple[str, ...]) -> None:
    outcome = dmr("package", *arguments)

    assert (outcome.code, outcome.out, service.requests) == (2, "", [])


def test_a_time_that_is_none(service: CannedServer, dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")

    outcome = dmr("package", "--gguf", __file__, "mine")

    assert (outcome.code, outcome.err) == (
        2,
        "Error: SOURCE_DATE_EPOCH 'yesterday' is not a number of seconds since 1970\n",
    )


def test_a_file_that_is_no_model_is_told(service: CannedServer, dmr: Dmr, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")

    outcome = dmr("package", "-q", "--gguf", str(path), "mine")

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("Error: ")
    assert "/models/load" not in [request.path for request in service.requests]


def test_nobody_hashes_for_a_service_that_does_not_run(dmr: Dmr, model_directory: Path) -> None:
    outcome = dmr("--host", "127.0.0.1:1", "package", "--safetensors-dir", str(model_directory), "mine")

    assert (outcome.code, outcome.out) == (4, "")


def test_a_refused_archive(service: CannedServer, dmr: Dmr, model_directory: Path) -> None:
    service.on("POST", "/models/load", Answer(500, b"error while loading model: disk full\n"))

    outcome = dmr("package", "-q", "--safetensors-dir", str(model_directory), "mine")

    assert outcome == (1, "", "Error: error while loading model: disk full\n")
