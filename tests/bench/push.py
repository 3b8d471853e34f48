"""``make bench-push``: sending a model of 1 GiB to Debian's ``docker-registry`` on loopback, against ``skopeo copy``.

Both send to a registry that has nothing yet, in turns. The registry hashes what it receives, on the same machine, so the
bar is to be no slower than the peer; the share of what hashing alone takes is printed beside it. Then the same model goes
under a second name to the same registry, which must be a mount: no byte is sent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.processes import Unavailable, main, median
from tests.bench.registry import RemoteModel, registry_serving, remote_model
from tests.bench.service import Service, dmr_program, environment, serving

_MIB = 1024 * 1024
_ROUNDS = 3
_REPOSITORY = "bench/model"
_AGAINST_SKOPEO = 1.0
_MOUNT_LIMIT = 1.0
_LIMIT = 600


def benchmark() -> bool:
    """Measure and print; whether every bar is met."""
    if shutil.which("skopeo") is None:
        raise Unavailable("skopeo is not on PATH: apt-get install skopeo")
    ours, theirs, hashing, mounts = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch, serving(room := Path(scratch)) as service:
        model = remote_model(room / "layer", 1024 * _MIB)
        with registry_serving(room / "source", _REPOSITORY, model) as host:
            _dmr(room, service, "pull", name := f"{host}/{_REPOSITORY}")
        shutil.rmtree(room / "source")
        directory = _as_directory(room / "skopeo", model)
        for _ in range(_ROUNDS):
            hashing.append(_hash(model.layer))
            with registry_serving(room / "target", _REPOSITORY, None) as host:
                theirs.append(_skopeo(directory, host))
            shutil.rmtree(room / "target")
            with registry_serving(room / "target", _REPOSITORY, None) as host:
                first, second = f"{host}/{_REPOSITORY}", f"{host}/bench/copy"
                _dmr(room, service, "tag", name, first)
                _dmr(room, service, "tag", name, second)
                ours.append(_push(room, service, first))
                mounts.append(_push(room, service, second))
                _dmr(room, service, "rm", first)
                _dmr(room, service, "rm", second)
            shutil.rmtree(room / "target")
    base, took, hashed, mounted = median(theirs), median(ours), median(hashing), median(mounts)
    print(f"1 GiB over loopback, medians of {_ROUNDS} interleaved runs")
    print(f"  hashlib of the file      {hashed:6.2f} s")
    print(f"  skopeo copy from dir     {base:6.2f} s")
    print(f"  dmr push                 {took:6.2f} s  {hashed / took:.2f} of hashlib's speed")
    print(f"  dmr push, second name    {mounted:6.2f} s  a mount")
    good = base / took >= _AGAINST_SKOPEO
    print(f"  {base / took:.1f} times skopeo's speed, at least {_AGAINST_SKOPEO:g}: {'PASS' if good else 'FAIL'}")
    quick = mounted <= _MOUNT_LIMIT
    print(f"  a mount within {_MOUNT_LIMIT:g} s: {'PASS' if quick else 'FAIL'}")
    return good and quick


def _as_directory(directory: Path, model: RemoteModel) -> Path:
    """The model as skopeo's ``dir:`` transport keeps it: blobs by the hex of their digests, and the manifest."""
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(model.manifest)
    (directory / hashlib.sha256(model.config).hexdigest()).write_bytes(model.config)
    os.link(model.layer, directory / model.digest.removeprefix("sha256:"))
    return directory


def _hash(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - began


def _skopeo(directory: Path, host: str) -> float:
    os.sync()
    target = f"docker://{host}/{_REPOSITORY}:latest"
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"dir:{directory}", target]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=_LIMIT)
    return time.perf_counter() - began


def _push(room: Path, service: Service, name: str) -> float:
    os.sync()
    began = time.perf_counter()
    _dmr(room, service, "push", name)
    return time.perf_counter() - began


def _dmr(room: Path, service: Service, *arguments: str) -> None:
    done = subprocess.run(
        [str(dmr_program()), *arguments],
        env=environment(room, {"MODEL_RUNNER_HOST": service.url}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"dmr {' '.join(arguments)} failed:\n{done.stderr}")


if __name__ == "__main__":
    main(benchmark)
