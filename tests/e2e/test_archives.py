"""Models made of files, of models, and carried from one store to another."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon


@pytest.fixture(autouse=True)
def _running(daemon: Daemon) -> None:
    daemon.start()


@pytest.fixture
def other(tmp_path: Path, daemon: Daemon) -> Iterator[Daemon]:
    """A second service with a store of its own."""
    root = tmp_path / "b"
    root.mkdir()
    places = {"HOME": root, "MODELS_PATH": root / "models", "DMR_RUNTIME_DIR": root / "run"}
    second = Daemon(root, {**daemon.environment, **{name: str(path) for name, path in places.items()}})
    second.start()
    yield second
    second.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A safetensors model of one number, its configuration and a licence."""
    made = tmp_path / "model"
    made.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (made / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (made / "config.json").write_text("{}")
    (made / "LICENSE").write_text("MIT")
    return made


def made(daemon: Daemon, *arguments: str) -> str:
    """The ID of the model that the arguments package."""
    return str(json.loads(daemon.cli("package", "-q", "--json", *arguments).stdout)["id"])


def listed(daemon: Daemon, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.cli("inspect", name).stdout)
    return found


def test_a_model_travels_to_another_store_byte_for_byte(
    daemon: Daemon, other: Daemon, directory: Path, tmp_path: Path
) -> None:
    model_id = made(daemon, "--safetensors-dir", str(directory), "mine")
    archive = tmp_path / "mine.tar"

    daemon.cli("export", "-o", str(archive), "mine")
    piped = daemon.cli("export", "mine").stdout
    loaded = json.loads(other.cli("load", "-i", str(archive), "--tag", "yours", "--json").stdout)
    again = json.loads(other.cli("load", "--json", stdin=piped).stdout)

    assert (loaded["id"], again["id"]) == (model_id, model_id)
    assert piped == archive.read_bytes()
    assert other.cli("export", "yours").stdout == piped
    assert listed(other, "yours")["config"] == listed(daemon, "mine")["config"]


def test_an_archive_that_was_cut_off_is_no_model(daemon: Daemon, other: Daemon, directory: Path) -> None:
    made(daemon, "--safetensors-dir", str(directory), "mine")
    whole = daemon.cli("export", "mine").stdout

    failed = other.cli("load", check=False, stdin=whole[: len(whole) // 2])

    assert failed.returncode == 1
    assert b"cut off" in failed.stderr
    assert other.cli("list", "-q").stdout == b""


def test_a_variant_shares_its_layers_and_changes_what_was_asked(daemon: Daemon, directory: Path) -> None:
    source = made(daemon, "--safetensors-dir", str(directory), "mine")
    template = directory.parent / "chat.jinja"
    template.write_text("{{ messages }}")
    blobs = daemon.root / "models" / "blobs" / "sha256"
    before = {path.name for path in blobs.iterdir()}

    variant = made(daemon, "--from", "mine", "--context-size", "4096", "--chat-template", str(template), "variant")
    new = {path.name for path in blobs.iterdir()} - before

    assert variant != source
    assert listed(daemon, "variant")["config"] == {**listed(daemon, "mine")["config"], "context_size": 4096}  # type: ignore[dict-item]
    assert len(new) == 2  # the template and the config
    assert made(daemon, "--from", "mine", "same") == source


def test_linked_files_take_no_second_room(daemon: Daemon, directory: Path) -> None:
    weights = directory / "model.safetensors"

    made(daemon, "--safetensors-dir", str(directory), "--link", "mine")

    assert weights.stat().st_nlink == 2
    assert daemon.cli("system", "check").returncode == 0


def test_the_same_files_make_the_same_model_whoever_packages_them(daemon: Daemon, directory: Path) -> None:
    ids = set()
    for zone, mask, language, mode, mtime in (
        ("UTC", 0o022, "C", 0o644, 1_000_000_000),
        ("Asia/Kathmandu", 0o077, "C.UTF-8", 0o600, 1_700_000_000),
    ):
        for path in directory.iterdir():
            path.chmod(mode)
            os.utime(path, (mtime, mtime))
        environment = {
            **daemon.environment,
            "MODEL_RUNNER_HOST": daemon.url,
            "SOURCE_DATE_EPOCH": "1750000000",
            "TZ": zone,
            "LC_ALL": language,
        }
        command = [sys.executable, "-m", "dmr_cli", "package", "-q", "--json", "--safetensors-dir", str(directory)]
        done = subprocess.run(
            [*command, f"mine:{mask}"], env=environment, umask=mask, capture_output=True, timeout=60, check=True
        )
        ids.add(json.loads(done.stdout)["id"])

    assert len(ids) == 1


def test_a_load_that_the_end_of_the_service_cuts_short_says_so_and_leaves_nothing_open(
    daemon: Daemon, other: Daemon, tmp_path: Path
) -> None:
    weights = tmp_path / "model.bin"
    weights.write_bytes(os.urandom(4 * 1024 * 1024))
    with tarfile.open(tmp_path / "half.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(weights, f"blobs/sha256/{hashlib.sha256(weights.read_bytes()).hexdigest()}")
    half = (tmp_path / "half.tar").read_bytes()[: 2 * 1024 * 1024]
    client = subprocess.Popen(
        [sys.executable, "-m", "dmr_cli", "load", "--quiet"],
        env={**other.environment, "MODEL_RUNNER_HOST": other.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdin is not None
    state = other.root / "models" / ".dmr"
    try:
        client.stdin.write(half)
        client.stdin.flush()
        deadline = time.monotonic() + 20
        while not any((state / "ingest").glob("*")):
            assert time.monotonic() < deadline, "nothing is taken in"
            time.sleep(0.02)
        assert other.stop() == 0
        output, errors = client.communicate(timeout=20)
    finally:
        client.kill()
        client.wait()

    assert (client.returncode, output) == (1, b"")
    assert b"shutting down" in errors
    assert list((state / "tmp").iterdir()) == []
    assert list((state / "leases").iterdir()) == []
