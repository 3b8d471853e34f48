"""``make bench-pull``: pulling from a registry, against ``skopeo copy``, one stream, and what hashing alone takes.

Three questions, each answered by peers in the same run: how fast is a pull where the line is not the limit (1 GiB over
loopback), how fast where every connection is throttled, and how much memory the daemon needs for 2 GiB each way.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.bench.processes import Unavailable, main, median
from tests.bench.registry import registry_serving, remote_model
from tests.bench.service import Service, dmr_program, environment, serving
from tests.bench.throttle import throttled_registry

_MIB = 1024 * 1024
_ROUNDS = 5
_REPOSITORY = "bench/model"
_AGAINST_SKOPEO = 4.0
_AGAINST_ONE_STREAM = 4.0
_MEMORY = 64 * _MIB
_RATE = 20_000_000
_LIMIT = 600


def benchmark() -> bool:
    """Measure and print; whether every bar is met."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", default=["loopback", "throttled", "memory"])
    wanted = arguments.parse_args().parts
    met = True
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as scratch:
        for part in ("loopback", "throttled", "memory"):
            if part in wanted:
                room = Path(scratch) / part
                room.mkdir()
                met &= {"loopback": _loopback, "throttled": _throttled, "memory": _memory}[part](room)
                shutil.rmtree(room)
    return met


def _loopback(room: Path) -> bool:
    model = remote_model(room / "layer", 1024 * _MIB)
    if shutil.which("skopeo") is None:
        raise Unavailable("skopeo is not on PATH: apt-get install skopeo")
    ours, theirs, hashing = [], [], []
    with registry_serving(room / "registry", _REPOSITORY, model) as host, serving(room) as service:
        for _ in range(_ROUNDS):
            hashing.append(_hash(model.layer))
            theirs.append(_skopeo(host, room / "skopeo"))
            ours.append(_pull(room, service, f"{host}/{_REPOSITORY}"))
    base, took, hashed = median(theirs), median(ours), median(hashing)
    print(f"1 GiB over loopback, medians of {_ROUNDS} interleaved runs")
    print(f"  hashlib of the file      {hashed:6.2f} s")
    print(f"  skopeo copy to dir       {base:6.2f} s")
    print(f"  dmr pull                 {took:6.2f} s  {hashed / took:.2f} of hashlib's speed")
    return _judge(base / took, _AGAINST_SKOPEO, "times skopeo's speed")


def _throttled(room: Path) -> bool:
    model = remote_model(room / "layer", 256 * _MIB)
    ours, single = [], []
    with throttled_registry(room / "registry", model, _REPOSITORY, rate=_RATE) as host, serving(room) as service:
        for _ in range(_ROUNDS):
            single.append(_one_stream(f"http://{host}/v2/{_REPOSITORY}/blobs/{model.digest}"))
            ours.append(_pull(room, service, f"{host}/{_REPOSITORY}"))
    base, took = median(single), median(ours)
    print(f"256 MiB at {_RATE / 1e6:g} MB/s per connection, medians of {_ROUNDS} interleaved runs")
    print(f"  one stream               {base:6.2f} s")
    print(f"  dmr pull                 {took:6.2f} s")
    return _judge(base / took, _AGAINST_ONE_STREAM, "times one stream")


def _memory(room: Path) -> bool:
    model = remote_model(room / "layer", 2048 * _MIB)
    with registry_serving(room / "registry", _REPOSITORY, model) as host, serving(room) as service:
        name = f"{host}/{_REPOSITORY}"
        with _peak(service.process.pid) as pulled:
            _dmr(room, service, "pull", name)
        with registry_serving(room / "other", _REPOSITORY, None) as other:
            target = f"{other}/{_REPOSITORY}:pushed"
            _dmr(room, service, "tag", name, target)
            with _peak(service.process.pid) as pushed:
                _dmr(room, service, "push", target)
    print("2 GiB each way, the daemon's resident memory above idle")
    print(f"  pull  {pulled.grown / _MIB:6.1f} MiB")
    print(f"  push  {pushed.grown / _MIB:6.1f} MiB")
    worst = max(pulled.grown, pushed.grown)
    good = worst <= _MEMORY
    print(f"  at most {_MEMORY // _MIB} MiB: {'PASS' if good else 'FAIL'}")
    return good


def _judge(ratio: float, least: float, what: str) -> bool:
    good = ratio >= least
    print(f"  {ratio:.1f} {what}, at least {least:g}: {'PASS' if good else 'FAIL'}")
    return good


def _hash(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - began


def _skopeo(host: str, target: Path) -> float:
    os.sync()
    began = time.perf_counter()
    source = f"docker://{host}/{_REPOSITORY}:latest"
    command = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", source, f"dir:{target}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=_LIMIT)
    took = time.perf_counter() - began
    shutil.rmtree(target)
    return took


def _pull(room: Path, service: Service, name: str) -> float:
    os.sync()
    began = time.perf_counter()
    _dmr(room, service, "pull", name)
    took = time.perf_counter() - began
    _dmr(room, service, "rm", name)
    return took


def _dmr(room: Path, service: Service, *arguments: str) -> None:
    variables = environment(room, {"MODEL_RUNNER_HOST": service.url})
    done = subprocess.run(
        [str(dmr_program()), *arguments],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"dmr {' '.join(arguments)} failed:\n{done.stderr}")


def _one_stream(url: str) -> float:
    """One GET of the whole blob, hashed: what a client without ranges needs."""
    where, hashed = urlsplit(url), hashlib.sha256()
    began = time.perf_counter()
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request("GET", where.path)
        answer = connection.getresponse()
        while piece := answer.read(_MIB):
            hashed.update(piece)
    finally:
        connection.close()
    return time.perf_counter() - began


class _peak:  # noqa: N801 - reads as the statement it is used in
    """How far the resident memory of a process grows above what it was on entering; sampled fifty times a second."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.grown = 0

    def __enter__(self) -> Self:
        self._idle = self._resident()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.grown = max(self.grown, self._resident() - self._idle)

    def _resident(self) -> int:
        for line in self._status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


if __name__ == "__main__":
    main(benchmark)
