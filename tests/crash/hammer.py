"""Two services, command lines and processes of their own, all at once on one store.

Every client has tags of its own, which must always be what it was told they are, and there are tags that all of them
want. At the end no acknowledged tag is lost, none came back, and every listed model is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import quote

import attrs

from dmr_adapters.model_store.maintenance.filesystem import FilesystemStoreMaintenance
from tests.crash.ledger import Ledger
from tests.crash.registry import CountingRegistry, RemoteModel, counting_registry, noise, remote_model
from tests.crash.verifier import verify
from tests.crash.victim import Victim, Victims, victims
from tests.e2e.conftest import Daemon, daemon_environment

__all__ = ["Result", "hammer"]

_MODELS: Final = 6
_WORKERS: Final = 4
_SHARED_TAGS: Final = 3
_TIMEOUT: Final = 120.0


@attrs.frozen
class Result:
    """What came of it. ``defects`` is empty where all is well."""

    answers: dict[str, int]
    defects: list[str]


@attrs.define(eq=False)
class _World:
    """What every client works with."""

    root: Path
    registry: CountingRegistry
    models: list[RemoteModel]
    daemons: list[Daemon]
    ledger: Ledger
    until: float
    failures: list[str] = attrs.field(factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.until and not self.failures


def hammer(directory: Path, *, seconds: float, seed: int = 1) -> Result:
    """Hammer a new store below ``directory`` for ``seconds``."""
    with _world(directory, seconds) as world, victims() as processes:
        work: list[Callable[[], None]] = [
            *(_HttpClient(world, number, seed).run for number in range(_WORKERS)),
            _CommandLine(world, seed).run,
            lambda: _beside(world, processes, seed),
            lambda: _prune(world),
        ]
        threads = [threading.Thread(target=_guarded, args=(world, each)) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for daemon in world.daemons:
            daemon.stop()
        return Result(dict(world.ledger.answers), [*world.failures, *_judge(world)])


def _judge(world: _World) -> list[str]:
    state = verify(world.root)
    defects = [*state.problems, *world.ledger.wrong(state.tags)]
    maintenance = FilesystemStoreMaintenance(world.root)
    report = asyncio.run(maintenance.check())
    defects.extend(str(finding) for finding in report.remaining)
    asyncio.run(maintenance.collect(partials_older_than=0.0, everything=True))
    end = verify(world.root)
    if end.tags != state.tags:
        defects.append(f"a collection changed the tags: {end.tags}")
    return [*defects, *(f"left over: {name}" for name in end.leftovers)]


@contextmanager
def _world(directory: Path, seconds: float) -> Iterator[_World]:
    root = directory / "models"
    shared = noise("hammer-shared", 300_000)
    models = [
        remote_model([shared, noise(f"hammer-{number}", 200_000), noise(f"hammer-{number // 2}-pair", 100_000)])
        for number in range(_MODELS)
    ]
    with ExitStack() as stack:
        registry = stack.enter_context(counting_registry())
        for number, model in enumerate(models):
            for client in (*range(_WORKERS), "cli"):
                registry.serve(f"ai/m{number}:w{client}", model)
        daemons = []
        for number in range(2):
            place = directory / f"d{number}"
            place.mkdir()
            daemon = Daemon(place, daemon_environment(place) | {"MODELS_PATH": str(root)})
            stack.callback(daemon.stop)
            daemon.start()
            daemons.append(daemon)
        yield _World(root, registry, models, daemons, Ledger(), time.monotonic() + seconds)


def _guarded(world: _World, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as exc:  # a client that fails is a finding
        world.failures.append(f"{type(exc).__name__}: {exc}")


class _HttpClient:
    """Asks one service or the other, over HTTP."""

    def __init__(self, world: _World, number: int, seed: int) -> None:
        self._world = world
        self._number = number
        self._random = Random(f"{seed}-{number}")

    def run(self) -> None:
        """Work until time is up."""
        while self._world.goes_on:
            self._random.choice(
                [self._pull, self._tag, self._tag, self._tag_shared, self._remove, self._remove_pulled]
            )()

    def _pulled(self) -> tuple[str, str]:
        """A name under which this client alone pulls, and the model it is of."""
        number = self._random.randrange(_MODELS)
        return f"{self._world.registry.host}/ai/m{number}:w{self._number}", self._world.models[number].id

    def _own(self) -> str:
        return f"docker.io/own{self._number}/tag:t{self._random.randrange(4)}"

    def _pull(self) -> None:
        name, model_id = self._pulled()
        with self._world.ledger.change(name, model_id) as change:
            status, body = self._ask("POST", "/models/create", json.dumps({"from": name}).encode())
            change.done = status == 200 and b'"success"' in body
            if not change.done:
                raise AssertionError(f"pull {name}: {status} {body[-500:]!r}")
        self._world.ledger.answered("pull")

    def _tag(self) -> None:
        self._give(self._own())

    def _tag_shared(self) -> None:
        self._give(f"docker.io/shared/tag:t{self._random.randrange(_SHARED_TAGS)}")

    def _give(self, tag: str) -> None:
        source, model_id = self._pulled()
        repository, _, version = tag.rpartition(":")
        with self._world.ledger.change(tag, model_id) as change:
            path = f"/models/{source}/tag?repo={quote(repository, safe='')}&tag={version}"
            change.done = self._done("tag", self._ask("POST", path), 201)

    def _remove(self) -> None:
        self._drop(self._own())

    def _remove_pulled(self) -> None:
        self._drop(self._pulled()[0])

    def _drop(self, tag: str) -> None:
        with self._world.ledger.change(tag, None) as change:
            change.done = self._done("remove", self._ask("DELETE", f"/models/{tag}"), 200)

    def _done(self, what: str, answer: tuple[int, bytes], good: int) -> bool:
        status, body = answer
        self._world.ledger.answered(f"{what} {status}")
        if status not in {good, 404, 409}:
            raise AssertionError(f"{what}: {status} {body[-500:]!r}")
        return status == good

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        daemon = self._random.choice(self._world.daemons)
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body, {"Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _CommandLine:
    """Runs ``dmr``, a process for each command."""

    def __init__(self, world: _World, seed: int) -> None:
        self._world = world
        self._random = Random(f"{seed}-cli")
        self._file = world.root.parent / "cli.gguf"
        self._file.write_bytes((Path(__file__).parents[2] / "dmr_cli/demo/model/demo.gguf").read_bytes())

    def run(self) -> None:
        """Work until time is up."""
        while self._world.goes_on:
            self._random.choice([self._pull, self._remove, self._package])()

    def _pull(self) -> None:
        number = self._random.randrange(_MODELS)
        name = f"{self._world.registry.host}/ai/m{number}:wcli"
        with self._world.ledger.change(name, self._world.models[number].id) as change:
            change.done = self._run("pull", name)

    def _remove(self) -> None:
        name = f"{self._world.registry.host}/ai/m{self._random.randrange(_MODELS)}:wcli"
        with self._world.ledger.change(name, None) as change:
            change.done = self._run("rm", name, may_fail=True)

    def _package(self) -> None:
        tag = "docker.io/cli/packaged:latest"
        arguments = ("package", "--json", "--gguf", str(self._file), tag)
        with self._world.ledger.change(tag, None) as change:
            done = self._random.choice(self._world.daemons).cli(*arguments, check=False)
            if done.returncode:
                raise AssertionError(f"package: {done.stderr.decode()[-500:]}")
            document: dict[str, Any] = json.loads(done.stdout)
            change.model, change.done = document["id"], True
        self._world.ledger.answered("cli package")

    def _run(self, *arguments: str, may_fail: bool = False) -> bool:
        done = self._random.choice(self._world.daemons).cli(*arguments, check=False)
        self._world.ledger.answered(f"cli {arguments[0]} {done.returncode}")
        if done.returncode and not may_fail:
            raise AssertionError(f"dmr {arguments}: {done.stderr.decode()[-500:]}")
        return not done.returncode


def _beside(world: _World, processes: Victims, seed: int) -> None:
    """Processes that work on the directory without any service."""
    random = Random(f"{seed}-beside")
    file = world.root.parent / "beside.gguf"
    tag = "docker.io/beside/packaged:latest"
    while world.goes_on:
        content = noise(f"beside-{random.randrange(3)}", 150_000)
        file.write_bytes(content)
        with world.ledger.change(tag, None) as change:
            victim = Victim(root=world.root, operation="package", argument=f"{file} beside/packaged:latest")
            (outcome,) = processes.run(victim)
            if outcome.error:
                raise AssertionError(f"packaging beside: {outcome.error}")
            change.model, change.done = verify_tag(world.root, tag), True
        world.ledger.answered("beside")


def verify_tag(root: Path, tag: str) -> str | None:
    """Which model has a tag, by the index."""
    models = json.loads((root / "models.json").read_bytes())["models"] or []
    return next((model["id"] for model in models if tag in (model["tags"] or ())), None)


def _prune(world: _World) -> None:
    maintenance = FilesystemStoreMaintenance(world.root)
    while world.goes_on:
        # Not models without a tag: one that is packaged has none until the client gives it one.
        asyncio.run(maintenance.collect(partials_older_than=0.0))
        world.ledger.answered("prune")
        time.sleep(0.05)


def main() -> int:
    """The program; 1 when a defect was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.hammer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmr-hammer-") as directory:
        result = hammer(Path(directory), seconds=options.seconds, seed=options.seed)
    for defect in result.defects:
        print(f"DEFECT {defect}", file=sys.stderr)
    print(", ".join(f"{what}: {count}" for what, count in sorted(result.answers.items())))
    return 1 if result.defects else 0


if __name__ == "__main__":
    sys.exit(main())
