"""The order of system calls by which a pull makes a model durable, as the kernel saw it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.conftest import require
from tests.crash.registry import RemoteModel, counting_registry, digest, noise, remote_model

_MIB = 1024 * 1024
_CALLS = "openat,close,pwrite64,pwritev,pwritev2,write,fsync,fdatasync,rename,renameat,renameat2,linkat,unlink,unlinkat"
_SYNC = re.compile(r"(?:fsync|fdatasync)\(\d+<([^>]+)>")
_RENAME = re.compile(r'rename(?:at2?)?\((?:[^,"]+, )?"([^"]+)", (?:[^,"]+, )?"([^"]+)"')
_WRITE = re.compile(r"p?write(?:64|v2?)?\(\d+<([^>]+)>")
_UNFINISHED = re.compile(r"^(\d+) +(\S+?)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\S+) resumed>(.*)$")


@attrs.frozen
class _Event:
    """A call that has returned. ``path`` is what was synced or written, or where a rename led to."""

    kind: str
    path: str
    source: str = ""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RemoteModel, list[_Event]]:
    """A store, the model that was pulled into it, and what was called for that."""
    require("strace", available=shutil.which("strace") is not None, reason="strace is not on PATH")
    directory = tmp_path_factory.mktemp("traced")
    root, log = directory / "models", directory / "strace.log"
    model = remote_model([noise("traced-a", 7 * _MIB + 11), noise("traced-b", 2 * _MIB), noise("traced-c", 100)])
    with counting_registry() as registry:
        registry.serve("ai/traced:latest", model)
        tracer = ["strace", "-f", "-y", "-qq", "-s", "0", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log)]
        victim = [sys.executable, "-m", "tests.crash.victim", "--root", str(root), "pull", f"{registry.host}/ai/traced"]
        done = subprocess.run(
            [*tracer, *victim], cwd=Path(__file__).parents[2], capture_output=True, timeout=100, check=False
        )
        if b"ptrace" in done.stderr and b"not permitted" in done.stderr:
            require("strace", available=False, reason="processes may not be traced here")
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["error"] == ""
    return root, model, list(_events(log))


def _events(log: Path) -> Iterator[_Event]:
    """Calls in the order in which they returned; one that was interrupted in the log is put together again."""
    begun: dict[tuple[str, str], str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if found := _UNFINISHED.match(line):
            begun[found[1], found[2]] = found[3]
            continue
        if found := _RESUMED.match(line):
            line = f"{found[1]} {found[2]}({begun.pop((found[1], found[2]), '')}{found[3]}"  # noqa: PLW2901
        if " = -1 " in line:
            continue
        if found := _RENAME.search(line):
            yield _Event("rename", found[2], found[1])
        elif found := _SYNC.search(line):
            yield _Event("fsync", found[1])
        elif found := _WRITE.search(line):
            yield _Event("write", found[1])


def _position(events: list[_Event], kind: str, path: Path, after: int = -1) -> int:
    for number, event in enumerate(events):
        if number > after and (event.kind, event.path) == (kind, str(path)):
            return number
    raise AssertionError(f"no {kind} of {path} after event {after}")


def _published(events: list[_Event], target: Path) -> tuple[int, int]:
    """Where a file was renamed to ``target``, and where that was made durable; what was written was synced before."""
    renamed = _position(events, "rename", target)
    source = Path(events[renamed].source)
    synced = max(
        number for number, event in enumerate(events[:renamed]) if (event.kind, event.path) == ("fsync", str(source))
    )
    written = [number for number, event in enumerate(events) if (event.kind, event.path) == ("write", str(source))]
    assert written
    assert max(written) < synced < renamed, f"{source} was written after it was synced"
    return renamed, _position(events, "fsync", target.parent, renamed)


def test_blobs_are_durable_before_the_manifest_and_that_before_the_index(
    traced: tuple[Path, RemoteModel, list[_Event]],
) -> None:
    root, model, events = traced
    blobs = [_published(events, root / "blobs" / "sha256" / digest(layer)[7:]) for layer in model.layers]
    config = _published(events, root / "blobs" / "sha256" / digest(model.config)[7:])
    manifest = _published(events, root / "manifests" / "sha256" / model.id[7:])
    listed = next(
        number
        for number, event in enumerate(events)
        if number > manifest[0] and (event.kind, event.path) == ("rename", str(root / "models.json"))
    )
    for _, durable in (*blobs, config):
        assert durable < manifest[0]
    assert manifest[1] < listed < _position(events, "fsync", root, listed)


def test_every_rename_into_the_store_is_made_durable(traced: tuple[Path, RemoteModel, list[_Event]]) -> None:
    root, _, events = traced
    renames = [
        number for number, event in enumerate(events) if event.kind == "rename" and event.path.startswith(str(root))
    ]
    assert len(renames) >= len(traced[1].layers) + 2
    for number in renames:
        _position(events, "fsync", Path(events[number].path).parent, number)
