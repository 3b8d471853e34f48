"""Bundles on real files: names, clashes, hostile paths and archives, and what a later use finds."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_core.domain.artifact import (
    CONFIG_MODELPACK,
    CONFIG_V01,
    CONFIG_V02,
    MODELPACK_ARTIFACT_TYPE,
    Artifact,
    Descriptor,
    LayerType,
    Manifest,
    ModelConfig,
)
from dmr_core.domain.encoding import encode_manifest, encode_modelpack_config
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import MalformedArtifactError, PreconditionError
from dmr_core.testing.contracts.model_store import build_artifact, layer_of, put_blob

_SAFE = b"\x08\0\0\0\0\0\0\0{}      "


@pytest.fixture
async def store(tmp_path: Path) -> FilesystemModelStore:
    return await FilesystemModelStore.open(tmp_path / "models")


async def _add(
    store: FilesystemModelStore, *files: tuple[str, bytes, str | None], media_type: str = CONFIG_V01, **config: Any
) -> Model:
    """A model of layers given as media type, content and path."""
    layers = [layer_of(data, kind, path) for kind, data, path in files]
    for _, data, _ in files:
        await put_blob(store, data)
    return await store.add(build_artifact(layers, ModelConfig(**config), media_type))


async def _add_pack(store: FilesystemModelStore, *layers: Descriptor, config: ModelConfig) -> Model:
    config_bytes = encode_modelpack_config(config)
    manifest = Manifest(
        config=layer_of(config_bytes, CONFIG_MODELPACK), layers=layers, artifact_type=MODELPACK_ARTIFACT_TYPE
    )
    return await store.add(
        Artifact(
            manifest=manifest,
            manifest_bytes=encode_manifest(manifest),
            config=config,
            config_bytes=config_bytes,
        )
    )


def _content(bundle: Bundle) -> dict[str, bytes]:
    directory = bundle.directory
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _tar(*members: tuple[str, bytes | None], **changes: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


class TestByRole:
    """Config v0.1: layers are found and named by their media type."""

    async def test_every_role_has_its_name(self, store: FilesystemModelStore) -> None:
        model = await _add(
            store,
            (LayerType.GGUF, b"GGUF", "original.gguf"),
            (LayerType.MMPROJ, b"projector", None),
            (LayerType.CHAT_TEMPLATE, b"template", "whatever.jinja"),
            (LayerType.LICENSE, b"licence", "LICENSE"),
            (LayerType.MODEL_FILE, b"{}", "extra/config.json"),
            (LayerType.MODEL_FILE, b"unnamed", None),
            context_size=512,
        )
        bundle = await store.bundle(model.id)
        assert _content(bundle) == {
            "model.gguf": b"GGUF",
            "model.mmproj": b"projector",
            "template.jinja": b"template",
            "extra/config.json": b"{}",
        }
        directory = bundle.directory
        assert bundle == Bundle(
            root=bundle.root,
            gguf=directory / "model.gguf",
            mmproj=directory / "model.mmproj",
            chat_template=directory / "template.jinja",
            context_size=512,
        )
        assert (bundle.root / "config.json").read_bytes() == b'{"context_size":512}\n'

    async def test_shards_are_numbered_and_the_first_one_counts(self, store: FilesystemModelStore) -> None:
        model = await _add(store, *((LayerType.GGUF, b"GGUF-%d" % number, None) for number in (1, 2, 3)))
        first = await store.bundle(model.id)
        assert sorted(_content(first)) == [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
        assert first.gguf == first.directory / "model-00001-of-00003.gguf"
        assert first.gguf.read_bytes() == b"GGUF-1"
        assert await store.bundle(model.id) == first

    async def test_two_projectors_or_templates_are_none(self, store: FilesystemModelStore) -> None:
        model = await _add(
            store,
            (LayerType.GGUF, b"GGUF", None),
            *((LayerType.MMPROJ, b"projector %d" % number, None) for number in (1, 2)),
            *((LayerType.CHAT_TEMPLATE, b"template %d" % number, None) for number in (1, 2)),
        )
        assert sorted(_content(await store.bundle(model.id))) == ["model.gguf"]

    async def test_safetensors_keep_their_places(self, store: FilesystemModelStore) -> None:
        model = await _add(
            store,
            (LayerType.SAFETENSORS, _SAFE + b"1", "text/a.safetensors"),
            (LayerType.SAFETENSORS, _SAFE + b"2", None),
            (LayerType.MODEL_FILE, b"shadowed", "text/a.safetensors"),
        )
        bundle = await store.bundle(model.id)
        assert _content(bundle) == {
            "text/a.safetensors": _SAFE + b"1",
            "model-00002-of-00002.safetensors": _SAFE + b"2",
        }
        assert bundle.safetensors == bundle.directory / "text" / "a.safetensors"

    async def test_a_dduf_archive_is_named_by_its_digest(self, store: FilesystemModelStore) -> None:
        model = await _add(store, (LayerType.DDUF, b"PK", "flux.dduf"))
        bundle = await store.bundle(model.id)
        assert bundle.dduf == bundle.directory / f"{layer_of(b'PK').digest.hex}.dduf"

    async def test_modelpack_weights_without_annotations_are_found_by_role(self, store: FilesystemModelStore) -> None:
        await put_blob(store, b"GGUF")
        layer = layer_of(b"GGUF", LayerType.PACK_WEIGHT_GGUF)
        model = await _add_pack(store, layer, config=ModelConfig(format="gguf", parameters="8b"))
        bundle = await store.bundle(model.id)
        assert bundle.gguf == bundle.directory / "model.gguf"
        config = json.loads((bundle.root / "config.json").read_bytes())
        assert config["config"] == {"format": "gguf", "paramSize": "8b"}


class TestByPath:
    """Config v0.2 and ModelPack: one file for each layer, where it is annotated."""

    async def test_a_directory_is_laid_out_as_it_was(self, store: FilesystemModelStore) -> None:
        files = {
            "model-00001-of-00002.safetensors": (LayerType.SAFETENSORS, _SAFE + b"1"),
            "model-00002-of-00002.safetensors": (LayerType.SAFETENSORS, _SAFE + b"2"),
            "config.json": (LayerType.MODEL_FILE, b"{}"),
            "nested/tokenizer.json": (LayerType.MODEL_FILE, b'{"t": 1}'),
            "chat_template.jinja": (LayerType.CHAT_TEMPLATE, b"{{ x }}"),
            "LICENSE": (LayerType.LICENSE, b"free"),
        }
        model = await _add(
            store,
            *((kind, data, path) for path, (kind, data) in files.items()),
            (LayerType.MODEL_FILE, b"not annotated", None),
            media_type=CONFIG_V02,
            format="safetensors",
        )
        bundle = await store.bundle(model.id)
        assert _content(bundle) == {path: data for path, (_, data) in files.items()}
        assert bundle.safetensors == bundle.directory / "model-00001-of-00002.safetensors"
        assert bundle.chat_template == bundle.directory / "chat_template.jinja"

    async def test_generic_weights_are_told_by_config_and_name(self, store: FilesystemModelStore) -> None:
        files = [
            (LayerType.PACK_WEIGHT, b"projector", "MMProj-f16.gguf"),
            (LayerType.PACK_WEIGHT, b"GGUF", "weights.gguf"),
            (LayerType.PACK_CONFIG, b"{{ x }}", "b.jinja"),
            (LayerType.PACK_CONFIG, b"{{ y }}", "chat_template.jinja"),
            (LayerType.PACK_DOC, b"read me", "docs/README.md"),
        ]
        for _, data, _ in files:
            await put_blob(store, data)
        layers = [layer_of(data, kind, path) for kind, data, path in files]
        for config in (ModelConfig(format="gguf"), ModelConfig(parameters="8b")):
            bundle = await store.bundle((await _add_pack(store, *layers, config=config)).id)
            directory = bundle.directory
            assert bundle == Bundle(
                root=bundle.root,
                gguf=directory / "weights.gguf",
                mmproj=directory / "MMProj-f16.gguf",
                chat_template=directory / "chat_template.jinja",
            )
            assert len(_content(bundle)) == len(files)

    async def test_the_same_file_twice_is_once(self, store: FilesystemModelStore) -> None:
        file = (LayerType.SAFETENSORS, _SAFE, "a/./model.safetensors")
        model = await _add(store, file, (*file[:2], "a//model.safetensors"), media_type=CONFIG_V02)
        assert _content(await store.bundle(model.id)) == {"a/model.safetensors": _SAFE}

    @pytest.mark.parametrize(
        "paths", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b/c", "a/b"), ("a/b", "a")], ids=" and ".join
    )
    async def test_clashing_places_are_refused(self, store: FilesystemModelStore, paths: tuple[str, str]) -> None:
        model = await _add(
            store,
            (LayerType.SAFETENSORS, _SAFE + b"1", paths[0]),
            (LayerType.SAFETENSORS, _SAFE + b"2", paths[1]),
            media_type=CONFIG_V02,
        )
        with pytest.raises(MalformedArtifactError, match="filepath collision"):
            await store.bundle(model.id)


_HOSTILE = ["../evil", "/etc/evil", "a/../../evil", "..", ".", "", "a\\..\\evil", "C:evil", "a\0b", "x" * 300]


class TestHostileArtifacts:
    @pytest.mark.parametrize("path", _HOSTILE)
    @pytest.mark.parametrize("media_type", [CONFIG_V01, CONFIG_V02])
    async def test_a_path_that_leaves_the_bundle_is_refused(
        self, store: FilesystemModelStore, tmp_path: Path, path: str, media_type: str
    ) -> None:
        model = await _add(
            store,
            (LayerType.SAFETENSORS, _SAFE, "model.safetensors"),
            (LayerType.MODEL_FILE, b"evil", path),
            media_type=media_type,
        )
        with pytest.raises(MalformedArtifactError, match="unsafe path"):
            await store.bundle(model.id)
        _assert_nothing_made(tmp_path)

    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\b"])
    async def test_an_archive_that_leaves_the_bundle_is_refused(
        self, store: FilesystemModelStore, tmp_path: Path, name: str
    ) -> None:
        model = await _add(store, (LayerType.GGUF, b"GGUF", None), (LayerType.DIR_TAR, _tar((name, b"evil")), None))
        with pytest.raises(MalformedArtifactError, match="unsafe path"):
            await store.bundle(model.id)
        _assert_nothing_made(tmp_path)

    @pytest.mark.parametrize(
        "data",
        [
            b"not a tar file at all",
            _tar(("a", b"x" * 2000))[:1024],
            _tar(("a", b"file"), ("a/b", b"below a file")),
            _tar(("model.gguf/x", b"below the weights")),
            b"\x1f\x8b\x08\x00",
        ],
        ids=["noise", "cut short", "file and directory", "below a linked file", "compressed"],
    )
    async def test_a_bad_archive_is_refused(self, store: FilesystemModelStore, tmp_path: Path, data: bytes) -> None:
        model = await _add(store, (LayerType.GGUF, b"GGUF", None), (LayerType.DIR_TAR, data, None))
        with pytest.raises(MalformedArtifactError, match="malformed tar layer"):
            await store.bundle(model.id)
        _assert_nothing_made(tmp_path)

    @pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xff" * 11 + b"\x00"])
    @pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    async def test_absurd_sizes_are_refused(self, store: FilesystemModelStore, size: bytes, kind: bytes) -> None:
        """Negative and enormous sizes send a trusting reader back, or out of memory."""
        header = bytearray(_tar(("a", b"x"))[:512])
        header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        model = await _add(
            store, (LayerType.GGUF, b"GGUF", None), (LayerType.DIR_TAR, bytes(header) + bytes(2048), None)
        )
        with pytest.raises(MalformedArtifactError):
            await store.bundle(model.id)


def _assert_nothing_made(tmp_path: Path) -> None:
    root = tmp_path / "models"
    assert list((root / ".dmr" / "tmp").iterdir()) == []
    assert not (root / "bundles").exists()
    assert list(tmp_path.rglob("*evil*")) == []


class TestArchives:
    """Tar layers come from older tools; nobody writes them any more."""

    async def test_files_and_directories_are_unpacked_and_the_rest_is_left_out(
        self, store: FilesystemModelStore
    ) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind in (("./", tarfile.DIRTYPE), ("d", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
                tar.addfile(info)
            for name, data, mode in (("d/run.sh", b"#!", 0o4755), ("model.gguf", b"other", 0o600)):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), mode
                tar.addfile(info, io.BytesIO(data))
        model = await _add(
            store,
            (LayerType.GGUF, b"GGUF", None),
            (LayerType.VLLM_CONFIG_TAR, _tar(("config.json", b"{}")), None),
            (LayerType.DIR_TAR, buffer.getvalue(), None),
            (LayerType.MODEL_FILE, b"later", "config.json"),
        )
        bundle = await store.bundle(model.id)
        assert _content(bundle) == {"model.gguf": b"GGUF", "d/run.sh": b"#!", "config.json": b"{}"}
        assert sorted(path.name for path in bundle.directory.iterdir()) == ["config.json", "d", "model.gguf"]
        assert (bundle.directory / "d" / "run.sh").stat().st_mode & 0o7777 == 0o755
        before = bundle.root.stat().st_ino
        assert (await store.bundle(model.id)).root.stat().st_ino == before


class TestLaterUse:
    async def test_files_are_hard_links(self, store: FilesystemModelStore, tmp_path: Path) -> None:
        model = await _add(store, (LayerType.GGUF, b"GGUF", None))
        bundle = await store.bundle(model.id)
        assert bundle.gguf is not None
        assert bundle.gguf.samefile(tmp_path / "models" / "blobs" / "sha256" / layer_of(b"GGUF").digest.hex)

    async def test_without_hard_links_there_are_symbolic_ones(
        self, store: FilesystemModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", _refuse)
        model = await _add(store, (LayerType.SAFETENSORS, _SAFE, "a/b.safetensors"))
        bundle = await store.bundle(model.id)
        assert bundle.safetensors is not None
        assert bundle.safetensors.is_symlink()
        moved = (tmp_path / "models").rename(tmp_path / "moved")
        assert (moved / bundle.safetensors.relative_to(tmp_path / "models")).read_bytes() == _SAFE

    async def test_without_any_links_there_are_copies(
        self, store: FilesystemModelStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", _refuse)
        monkeypatch.setattr(os, "symlink", _refuse)
        model = await _add(store, (LayerType.GGUF, b"GGUF", None))
        bundle = await store.bundle(model.id)
        assert bundle.gguf is not None
        assert not bundle.gguf.is_symlink()
        assert _content(bundle) == {"model.gguf": b"GGUF"}

    @pytest.mark.parametrize("lost", ["config.json", "model/model.gguf", "model"])
    async def test_a_damaged_bundle_is_made_again(self, store: FilesystemModelStore, lost: str) -> None:
        model = await _add(store, (LayerType.GGUF, b"GGUF", None))
        bundle = await store.bundle(model.id)
        (bundle.root / lost).rename(bundle.root / "lost")
        assert await store.bundle(model.id) == bundle
        assert _content(bundle) == {"model.gguf": b"GGUF"}
        assert sorted(path.name for path in bundle.root.iterdir()) == ["config.json", "model"]

    async def test_a_whole_bundle_is_not_touched(self, store: FilesystemModelStore) -> None:
        """Two templates at the top made the reference rebuild on every use, under a running engine."""
        model = await _add(
            store,
            (LayerType.SAFETENSORS, _SAFE, "model.safetensors"),
            (LayerType.MODEL_FILE, b"{{ a }}", "a.jinja"),
            (LayerType.MODEL_FILE, b"{{ b }}", "b.jinja"),
            media_type=CONFIG_V02,
        )
        bundle = await store.bundle(model.id)
        before = bundle.root.stat()
        assert await store.bundle(model.id) == bundle
        assert (bundle.root.stat().st_ino, bundle.root.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    async def test_a_missing_blob_is_named(self, store: FilesystemModelStore, tmp_path: Path) -> None:
        model = await _add(store, (LayerType.GGUF, b"GGUF", None))
        digest = layer_of(b"GGUF").digest
        (tmp_path / "models" / "blobs" / "sha256" / digest.hex).unlink()
        with pytest.raises(PreconditionError, match=f"{digest} is missing"):
            await store.bundle(model.id)
        _assert_nothing_made(tmp_path)


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")
