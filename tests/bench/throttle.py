"""A registry that gives each connection so many bytes per second and no more, as many delivery networks do.

``python -m tests.bench.throttle ROOT RATE`` serves the documents in a directory; see :func:`throttled_registry`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.bench.processes import free_port, running, wait_for
from tests.bench.registry import MANIFEST_TYPE, RemoteModel
from tests.bench.service import listening

__all__ = ["throttled_registry"]

_PIECE = 128 * 1024
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")


@contextlib.contextmanager
def throttled_registry(root: Path, model: RemoteModel, repository: str, *, rate: int) -> Iterator[str]:
    """Serve ``model`` as ``repository:latest`` at ``rate`` bytes per second and connection; gives ``host:port``."""
    root.mkdir()
    (root / "manifest").write_bytes(model.manifest)
    (root / "config").write_bytes(model.config)
    os.link(model.layer, root / "layer")
    config = json.loads(model.manifest)["config"]["digest"]
    places = {f"/v2/{repository}/manifests/latest": "manifest"}
    places |= {f"/v2/{repository}/blobs/{config}": "config", f"/v2/{repository}/blobs/{model.digest}": "layer"}
    (root / "places.json").write_text(json.dumps(places))
    port, log = free_port(), root / "log"
    command = [sys.executable, "-m", "tests.bench.throttle", str(root), str(rate), str(port)]
    variables = {"PATH": os.defpath, "PYTHONPATH": os.getcwd()}
    with running(command, variables, log) as process:
        wait_for(lambda: listening(port), process, log)
        yield f"127.0.0.1:{port}"


async def _serve(root: Path, rate: int, port: int) -> None:
    places = {path: root / name for path, name in json.loads((root / "places.json").read_text()).items()}
    content = {path: _mapped(file) for path, file in places.items()}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                await _answer(content, head, writer, rate)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    await server.serve_forever()


async def _answer(content: Mapping[str, memoryview], head: list[str], writer: asyncio.StreamWriter, rate: int) -> None:
    path = head[0].split(" ")[1]
    body = content.get(path)
    if body is None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    start, end, status = 0, len(body), "200 OK"
    headers = f"Content-Type: {MANIFEST_TYPE}\r\nAccept-Ranges: bytes\r\n"
    asked = next((_RANGE.fullmatch(line.split(": ")[1]) for line in head if line.lower().startswith("range: ")), None)
    if asked:
        start, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(body)
        status, headers = "206 Partial Content", headers + f"Content-Range: bytes {start}-{end - 1}/{len(body)}\r\n"
    writer.write(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {end - start}\r\n\r\n".encode())
    loop = asyncio.get_running_loop()
    began = loop.time()
    for position in range(start, end, _PIECE):
        writer.write(body[position : min(position + _PIECE, end)])
        await writer.drain()
        await asyncio.sleep(began + (position + _PIECE - start) / rate - loop.time())


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
