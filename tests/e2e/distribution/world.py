"""One registry of one kind, a service that trusts it, and a client: what the acceptance tests of models run in."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from pathlib import Path
from typing import Any, Protocol
from urllib.request import ProxyHandler, Request, build_opener

import attrs

from tests.e2e.conftest import Daemon
from tests.stand_ins import stock_cli
from tests.stand_ins.registry_kinds import KnownRegistry
from tests.stand_ins.stock_package import Archive, from_gguf

__all__ = [
    "CLIENTS",
    "Client",
    "DmrClient",
    "Done",
    "StockClient",
    "World",
    "digest_forms",
    "dummy_gguf",
    "id_forms",
    "tag_forms",
]

CLIENTS = ("dmr", "stock")


@attrs.frozen
class Done:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything it said."""
        return self.out + self.err


class Client(Protocol):
    """A ``docker model`` command line."""

    def run(self, *arguments: str) -> Done:
        """Run one."""


@attrs.frozen
class DmrClient:
    """The installed ``dmr``, a process for each command."""

    daemon: Daemon

    def run(self, *arguments: str) -> Done:
        """See :class:`Client`."""
        done = self.daemon.cli(*arguments, check=False)
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@attrs.frozen
class StockClient:
    """The stand-in of Docker's own CLI; a process of its own would add nothing but time."""

    environ: dict[str, str]

    def run(self, *arguments: str) -> Done:
        """See :class:`Client`."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = stock_cli.main(arguments, self.environ)
        return Done(code, out.getvalue(), err.getvalue())


@attrs.frozen
class World:
    """The registry short names live in, another one, the service and the client."""

    registry: KnownRegistry
    other: KnownRegistry
    daemon: Daemon
    client: Client
    files: Path

    def ok(self, *arguments: str) -> str:
        """What a command that must work prints."""
        done = self.client.run(*arguments)
        assert done.code == 0, f"{arguments}: {done.text}\n{self.daemon.log.read_text()[-2000:]}"
        return done.out

    def fails(self, *arguments: str) -> str:
        """What a command that must fail says."""
        done = self.client.run(*arguments)
        assert done.code != 0, f"{arguments} should fail, and says: {done.text}"
        return done.text

    def inspect(self, name: str) -> dict[str, Any]:
        """``inspect NAME``."""
        document: dict[str, Any] = json.loads(self.ok("inspect", name))
        return document

    def seeded(self, name: str, *, tag: str = "latest", organisation: str = "ai", context_size: int = 2048) -> str:
        """Put a model of its own into the registry; its ID."""
        model = self.model(f"{organisation}/{name}:{tag}", context_size)
        self.registry.seed(f"{organisation}/{name}", tag, [*model.layers, model.config], model.manifest)
        return model.id

    def model(self, name: str, context_size: int = 2048) -> Archive:
        """A model that no other name has."""
        return from_gguf(self.gguf(name), licenses=[], context_size=context_size, schema="docker")

    def gguf(self, name: str) -> Path:
        """A small GGUF file that says ``name``."""
        path = self.files / (name.replace("/", "-").replace(":", "-") + ".gguf")
        path.write_bytes(dummy_gguf(name))
        return path

    def listed(self) -> list[str]:
        """``ls -q``."""
        return self.ok("ls", "-q").split()

    def stored(self) -> list[dict[str, Any]]:
        """What the service has, asked without a client."""
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/models"))
        return found

    def empty(self) -> None:
        """Remove every model, without a client."""
        for model in self.stored():
            self._ask("DELETE", f"/models/{model['id']}?force=true")

    def _ask(self, method: str, path: str) -> bytes:
        request = Request(self.daemon.url + path, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            content: bytes = answer.read()
            return content


def tag_forms(registry: str, name: str, tag: str = "latest", organisation: str = "ai") -> list[str]:
    """The ways to name a model by a tag: with and without registry, organisation and tag."""
    full = f"{organisation}/{name}"
    forms = [full, f"{full}:{tag}", f"{registry}/{full}:{tag}", f"{registry}/{full}"]
    return [name, f"{name}:{tag}", *forms] if organisation == "ai" else forms


def digest_forms(registry: str, name: str, digest: str, organisation: str = "ai") -> list[str]:
    """The ways to name it by its digest."""
    full = f"{organisation}/{name}@{digest}"
    return [f"{name}@{digest}", full, f"{registry}/{full}"] if organisation == "ai" else [full, f"{registry}/{full}"]


def id_forms(digest: str) -> list[str]:
    """The ways to name it by its ID."""
    bare = digest.removeprefix("sha256:")
    return [digest, bare[:12], bare]


def dummy_gguf(name: str) -> bytes:
    """GGUF version 3 with one small tensor, and ``name`` in its header."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = {"general.architecture": "llama", "general.name": name}
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs))
    for key, value in pairs.items():
        content += text(key) + struct.pack("<I", 8) + text(value)
    content += text("blk.0.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    return content.ljust(-(-len(content) // 32) * 32, b"\0") + bytes(256)
