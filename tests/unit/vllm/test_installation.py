"""Which vLLM there is, without starting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_backends_vllm.installation import find_installation
from dmr_core.errors import BackendNotInstalledError, EngineVersionError


def environment(root: Path, version: str = "") -> dict[str, str]:
    """A virtual environment with a ``vllm`` of a version."""
    program = root / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    if version:
        (root / "lib" / "python3.11" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
    return {"VLLM_SERVER_PATH": str(program), "PATH": "/nowhere"}


@pytest.mark.parametrize("version", ["0.32.0+cpu", "0.10.0", "1.0.0rc1", ""])
def test_a_version_that_is_new_enough_or_unknown_will_do(tmp_path: Path, version: str) -> None:
    found = find_installation(environment(tmp_path, version))
    assert found.version == version
    found.check()


@pytest.mark.parametrize("version", ["0.9.2", "0.8.5.post1", "v0.6"])
def test_one_that_is_too_old_is_named_with_what_to_do(tmp_path: Path, version: str) -> None:
    variables = environment(tmp_path)
    (tmp_path / "version").write_text(version + "\n")
    with pytest.raises(EngineVersionError, match=rf"vLLM {version} .*needs 0\.10 or newer.*VLLM_SERVER_PATH"):
        find_installation(variables).check()


def test_a_link_to_the_program_leads_to_its_version(tmp_path: Path) -> None:
    program = environment(tmp_path / "venv", "0.31.0")["VLLM_SERVER_PATH"]
    link = tmp_path / "elsewhere" / "vllm"
    link.parent.mkdir()
    link.symlink_to(program)
    assert find_installation({"PATH": str(link.parent)}).version == "0.31.0"


def test_what_is_configured_and_not_there_is_named(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BackendNotInstalledError, match=f"vLLM binary not found; .*{wrong}.*no program"):
            find_installation({"VLLM_SERVER_PATH": str(wrong), "PATH": "/nowhere"})
    with pytest.raises(BackendNotInstalledError, match="install vLLM and set VLLM_SERVER_PATH"):
        find_installation({"PATH": "/nowhere"})
