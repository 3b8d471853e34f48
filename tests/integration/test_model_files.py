"""Reading what a model directory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_adapters.model_store.model_files import FilesystemModelFiles
from dmr_core.domain.admission import MAX_DOCUMENT, ModelFile
from dmr_core.errors import PreconditionError


async def test_every_file_is_listed_and_documents_are_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"data")
    (tmp_path / "long.json").write_bytes(bytes(MAX_DOCUMENT + 1))
    files = {file.path: file for file in await FilesystemModelFiles().read(tmp_path)}
    assert files == {
        "sub/config.json": ModelFile(path="sub/config.json", document=b"{}"),
        "tokenizer.json": ModelFile(path="tokenizer.json"),
        "model.safetensors": ModelFile(path="model.safetensors"),
        "long.json": ModelFile(path="long.json"),
    }


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="missing"):
        await FilesystemModelFiles().read(tmp_path / "missing")
