"""``dmr key create``."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from dmr_cli.main import main
from dmr_core.domain.api_key import ApiKeyHash


def test_the_key_is_printed_once_and_its_hash_is_for_this_user_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "key"
    assert main(["key", "create", str(file)]) == 0
    key = capsys.readouterr().out.strip()

    assert len(key) > 40
    assert key not in file.read_text()
    assert ApiKeyHash.parse(file.read_text()).opens(key.encode())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [file] == list(file.parent.iterdir())


def test_an_existing_key_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key"
    main(["key", "create", str(file)])
    capsys.readouterr()
    before = file.read_text()

    assert main(["key", "create", str(file)]) == 1
    said = capsys.readouterr()
    assert "--force" in said.err
    assert said.out == ""
    assert file.read_text() == before
    assert main(["key", "create", str(file), "--force", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["file"] == str(file)
    assert ApiKeyHash.parse(file.read_text()).opens(made["key"].encode())
    assert [file] == list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    assert main(["key", "create", str(tmp_path / "file" / "key")]) == 1
    said = capsys.readouterr()
    assert "Error: " in said.err
    assert said.out == ""
