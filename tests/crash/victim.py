"""Processes that do one thing to a store, and die on the way.

``python -m tests.crash.victim --serve`` waits for work on its input, a line of JSON for each round, and forks a process for
each victim of it: what takes half a second to import is imported once. Run by hand it does one thing:
``python -m tests.crash.victim --root DIR [--kill-at N] [--when before|middle|after] OPERATION [ARGUMENT]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from dmr_adapters.clock import SystemClock
from dmr_adapters.model_store.filesystem import FilesystemModelStore
from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_adapters.registry.oci import OciRegistry
from dmr_cli.client.upload import archive
from dmr_cli.server.packaging import importing_packaging, revised
from dmr_core.domain.artifact import Format
from dmr_core.domain.reference import ReferencePolicy
from dmr_core.domain.repackage import Changes
from dmr_core.errors import ModelNotFoundError
from dmr_core.services.catalog import CatalogService
from dmr_core.services.fetching import FetchingService, FetchLimits
from dmr_core.services.loading import LoadingService
from dmr_core.services.packaging import BuiltArtifact, PackageRequest, PackagingService, WeightsFile
from dmr_core.services.pulling import PullingService
from tests.crash.failpoints import Failpoints, When

__all__ = ["PARTS_AT_ONCE", "PART_SIZE", "Outcome", "Victim", "Victims", "victims"]

PARTS_AT_ONCE: Final = 2
PART_SIZE: Final = 3 * 1024 * 1024
_REPOSITORY: Final = Path(__file__).parents[2]


@attrs.frozen(kw_only=True)
class Victim:
    """One process: what it does to the store at ``root``, and where it dies; ``kill_at`` 0 is nowhere."""

    root: Path
    operation: str
    argument: str = ""
    kill_at: int = 0
    when: When = When.BEFORE


@attrs.frozen(kw_only=True)
class Outcome:
    """How a victim ended. ``calls`` are the names of its changes of the disk; unknown of the dead."""

    killed: bool
    error: str = ""
    calls: tuple[str, ...] = ()


class Victims:
    """Has victims run."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, *victims: Victim) -> list[Outcome]:
        """Run these victims at once, until all have ended."""
        asked = [attrs.asdict(victim) | {"root": str(victim.root)} for victim in victims]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the parent of the victims died"
        return [Outcome(**{**found, "calls": tuple(found["calls"])}) for found in json.loads(answer)]


@contextmanager
def victims() -> Iterator[Victims]:
    """A process that runs victims."""
    command = [sys.executable, "-m", "tests.crash.victim", "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_REPOSITORY)
    try:
        yield Victims(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@attrs.frozen
class _Services:
    """What a service has, on the real store and the real registry adapter."""

    root: Path
    store: FilesystemModelStore
    maintenance: FilesystemStoreMaintenance
    pulling: PullingService
    catalog: CatalogService
    loading: LoadingService


@asynccontextmanager
async def _services(root: Path) -> AsyncIterator[_Services]:
    clock, policy = SystemClock(), ReferencePolicy()
    async with AsyncExitStack() as stack:
        store = await FilesystemModelStore.open(root)
        registry = OciRegistry(clock=clock, decode_manifest=decode_manifest, decode_config=decode_config)
        stack.push_async_callback(registry.aclose)
        limits = FetchLimits(
            total=PARTS_AT_ONCE,
            per_host=PARTS_AT_ONCE,
            at_first=PARTS_AT_ONCE,
            smallest_part=PART_SIZE,
            largest_part=PART_SIZE,
        )
        pulling = PullingService(
            store=store,
            registry=registry,
            policy=policy,
            clock=clock,
            fetching=FetchingService(store=store, clock=clock, limits=limits),
        )
        stack.push_async_callback(pulling.aclose)
        yield _Services(
            root,
            store,
            FilesystemStoreMaintenance(root),
            pulling,
            CatalogService(store, policy),
            LoadingService(store, decode_manifest=decode_manifest, decode_config=decode_config),
        )


async def _do(use: _Services, operation: str, argument: str) -> None:
    """One operation, as the service does it."""
    match operation:
        case "open":
            pass
        case "pull":
            async for _ in await use.pulling.pull(argument):
                pass
        case "package":
            file, name = argument.split()
            built = await PackagingService(FilesystemPackageSource()).build(_request(file))
            await _load(use, built, name)
        case "import" | "import-link":
            file, name = argument.split()
            async with importing_packaging(use.root, link=operation == "import-link") as (packaging, importing):
                built = await packaging.build(_request(file))
                await importing.publish()
                await _load(use, attrs.evolve(built, files=()), name)
        case "repackage":
            source, name = argument.split()
            base = await use.catalog.find_fresh(source)
            manifest = await use.store.read_manifest(base.id)
            assert manifest is not None
            config = b"".join([chunk async for chunk in use.store.read_blob(base.manifest.config.digest)])
            artifact = revised(manifest, config, Changes(context_size=1234))
            await _load(use, BuiltArtifact(artifact=artifact, files=()), name)
        case "tag":
            await use.catalog.tag(*argument.split())
        case "remove":
            with suppress(ModelNotFoundError):  # it was removed before the process died
                await use.catalog.remove(argument, force=True)
        case "bundle":
            await use.store.bundle((await use.catalog.find_fresh(argument)).id)
        case "prune":
            await use.maintenance.collect(partials_older_than=0.0)
        case "prune-all":
            await use.maintenance.collect(partials_older_than=0.0, everything=True)
        case "repair":
            await use.maintenance.check(repair=True)
        case "purge":
            await use.maintenance.clear()
        case _:
            raise ValueError(operation)


def _request(file: str) -> PackageRequest:
    then = datetime(2026, 1, 1, tzinfo=UTC)
    source = WeightsFile(path=Path(file), expected=Format.GGUF)
    return PackageRequest(source=source, created=then, epoch=then, allow_malformed=True)


async def _load(use: _Services, built: BuiltArtifact, name: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in archive(built, lambda name, sent, size: None):
            yield piece

    model = await use.loading.load(chunks())
    await use.catalog.tag(str(model.id), name)


async def _live(root: Path, operation: str, argument: str) -> None:
    async with _services(root) as use:
        await _do(use, operation, argument)


def _victim(root: Path, operation: str, argument: str, kill_at: int, when: str) -> dict[str, Any]:
    """Be a victim; how it went, if it lives to say so."""
    points = Failpoints(root, kill_at, When(when))
    points.install()
    try:
        asyncio.run(asyncio.wait_for(_live(root, operation, argument), 120))
    except Exception as exc:  # whatever it is, the parent wants to know
        return {"killed": False, "error": f"{type(exc).__name__}: {exc}", "calls": points.names}
    return {"killed": False, "error": "", "calls": points.names}


def _fork(asked: dict[str, Any]) -> tuple[int, int]:
    """Start a victim; its process, and where it tells how it went."""
    here, there = os.pipe()
    child = os.fork()
    if child:
        os.close(there)
        return child, here
    try:
        os.close(here)
        answer = json.dumps(_victim(**{**asked, "root": Path(asked["root"])})).encode()
        os.set_blocking(there, True)
        while answer:
            answer = answer[os.write(there, answer) :]
    finally:
        os._exit(0)


def _round(line: bytes) -> list[dict[str, Any]]:
    running = [_fork(asked) for asked in json.loads(line)]
    outcomes = []
    for child, told in running:
        with os.fdopen(told, "rb") as file:
            data = file.read()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        dead = {"killed": code == -9, "error": "" if code == -9 else f"exit status {code}", "calls": []}
        outcomes.append(json.loads(data) if data else dead)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.victim", description="Do one thing to a store, and die on the way."
    )
    parser.add_argument("--serve", action="store_true", help="read rounds of victims from the input")
    parser.add_argument("--root", type=Path, help="the store")
    parser.add_argument("--kill-at", type=int, default=0, metavar="N", help="die at the n-th change of the disk")
    parser.add_argument("--when", choices=[when.value for when in When], default="before")
    parser.add_argument("operation", nargs="?")
    parser.add_argument("argument", nargs="?", default="")
    options = parser.parse_args(arguments)
    if options.serve:
        for line in sys.stdin.buffer:
            sys.stdout.buffer.write(json.dumps(_round(line)).encode() + b"\n")
            sys.stdout.buffer.flush()
        return 0
    if options.root is None or options.operation is None:
        parser.error("--root and OPERATION are needed")
    outcome = _victim(options.root, options.operation, options.argument, options.kill_at, options.when)
    print(json.dumps(outcome))
    return 1 if outcome["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
