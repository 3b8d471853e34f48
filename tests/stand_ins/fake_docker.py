"""A Docker Engine that is no more than its API: images are names, containers are small servers in this process.

For the tests of every day; the suite in ``tests/contract/test_docker_engine.py`` holds it to what a real one does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

__all__ = ["FakeDocker", "FakeImage", "fake_docker"]


@attrs.frozen
class FakeImage:
    """An image: ``environment`` says how its server behaves, as that of ``nim_server.py`` does."""

    environment: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def id(self) -> str:
        text = json.dumps(dict(self.environment), sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@attrs.define(eq=False)
class _Container:
    id: str
    name: str
    image: FakeImage
    spec: dict[str, Any]
    running: bool = False
    code: int = 0
    port: int = 0
    output: list[bytes] = attrs.field(factory=list)
    changed: asyncio.Condition = attrs.field(factory=asyncio.Condition)
    server: asyncio.Server | None = None
    starts: int = 0
    dies: int | None = None

    def entry(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "ImageID": self.image.id,
            "Labels": self.spec.get("Labels") or {},
            "State": "running" if self.running else "exited",
        }

    def document(self) -> dict[str, Any]:
        ports = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]} if self.running else {}
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": self.image.id,
            "State": {"Running": self.running, "ExitCode": self.code, "StartedAt": "2026-11-23T09:00:00.000000001Z"},
            "Config": {"Env": self.spec.get("Env") or [], "Labels": self.spec.get("Labels") or {}},
            "HostConfig": self.spec.get("HostConfig") or {},
            "NetworkSettings": {"Ports": ports},
        }


@attrs.define(eq=False)
class FakeDocker:
    """``registry`` is what can be pulled, with ``login`` (user, password) where that is set; ``images`` what is here.

    ``requests`` are the requests it got. ``pulls_wait`` holds pulls in their middle until it is set.
    """

    socket: Path
    registry: dict[str, FakeImage] = attrs.field(factory=dict)
    login: tuple[str, str] | None = None
    images: dict[str, FakeImage] = attrs.field(factory=dict)
    containers: dict[str, _Container] = attrs.field(factory=dict)
    requests: list[str] = attrs.field(factory=list)
    auths: list[dict[str, str]] = attrs.field(factory=list)
    runtimes: tuple[str, ...] = ("runc",)
    taken_ports: set[int] = attrs.field(factory=set)
    broken: dict[str, tuple[int, str]] = attrs.field(factory=dict)
    pulls_wait: asyncio.Event | None = None
    cancelled_pulls: int = 0
    held_pulls: int = 0
    asked: list[bytes] = attrs.field(factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)

    @property
    def running(self) -> int:
        """How many containers run."""
        return sum(container.running for container in self.containers.values())

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        """Go away, as an engine that is stopped does: its containers end first."""
        for container in list(self.containers.values()):
            await self._end(container, 143)
        await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
            self._server = None
        self.socket.unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = line.split(" ")
            url = urlsplit(target)
            path = re.sub(r"^/v1\.\d+", "", unquote(url.path))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.requests.append(f"{method} {path}")
            gone = asyncio.ensure_future(reader.read(1))
            answering = asyncio.ensure_future(self._answer(writer, method, path, query, headers, body))
            try:
                await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    answering.result()
                elif path == "/images/create":
                    self.cancelled_pulls += 1
            finally:
                for one in (gone, answering):
                    one.cancel()
                await asyncio.gather(gone, answering, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        for beginning, (status, message) in self.broken.items():
            if f"{method} {path}".startswith(beginning):
                await _reply(writer, status, {"message": message})
                return
        if path == "/images/create":
            await self._pull(writer, f"{query['fromImage']}", query["tag"], headers)
            return
        if match := re.fullmatch(r"/containers/([^/]+)/(wait|logs)", path):
            container = self._find(match[1])
            if container is None:
                await _reply(writer, 404, {"message": f"No such container: {match[1]}"})
                return
            await (self._wait if match[2] == "wait" else self._logs)(writer, container)
            return
        status, document = await self._plain(method, path, query, json.loads(body or b"null"))
        await _reply(writer, status, document)

    async def _plain(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"Version": "99.0", "ApiVersion": "1.41"}
        if path == "/info":
            return 200, {"Runtimes": {name: {} for name in self.runtimes}}
        if path == "/images/json":
            ids = {image.id for image in self.images.values()}
            return 200, [self._image(image_id) for image_id in sorted(ids)]
        if path == "/containers/json":
            return 200, self._listed(json.loads(query.get("filters", "{}")))
        if path == "/containers/create":
            return self._create(query["name"], body)
        if match := re.fullmatch(r"/images/(.+)/json", path):
            found = self._image(match[1])
            return (200, found) if found else (404, {"message": f"No such image: {match[1]}"})
        if match := re.fullmatch(r"/images/(.+)", path):
            names = [name for name, image in self.images.items() if match[1] in (name, image.id)]
            for name in names:
                del self.images[name]
            return (200, [{"Untagged": name} for name in names]) if names else (404, {"message": "No such image"})
        if match := re.fullmatch(r"/containers/([^/]+)(?:/(\w+))?", path):
            return await self._container(method, match[1], match[2] or "")
        return 404, {"message": "page not found"}

    # --- images

    def _image(self, name: str) -> dict[str, Any] | None:
        found = self.images.get(name) or next((one for one in self.images.values() if one.id == name), None)
        if found is None:
            return None
        tags = sorted(tag for tag, image in self.images.items() if image.id == found.id)
        return {"Id": found.id, "RepoTags": tags, "RepoDigests": [], "Size": 120_000_000, "Created": 1_700_000_000}

    async def _pull(self, writer: asyncio.StreamWriter, name: str, tag: str, headers: dict[str, str]) -> None:
        auth = json.loads(base64.urlsafe_b64decode(headers["x-registry-auth"])) if "x-registry-auth" in headers else {}
        self.auths.append(auth)
        if self.login is not None and (auth.get("username"), auth.get("password")) != self.login:
            await _reply(writer, 500, {"message": f"Head {name}: unauthorized: authentication required"})
            return
        image = self.registry.get(f"{name}:{tag}")
        if image is None:
            await _reply(writer, 404, {"message": f"manifest for {name}:{tag} not found: manifest unknown"})
            return
        await _begin(writer)
        known = self.images.get(f"{name}:{tag}") == image
        for status, layer, done in (
            ("Pulling from nim", tag, 0),
            ("Pulling fs layer", "0123456789ab", 0),
            ("Downloading", "0123456789ab", 400),
            ("Downloading", "0123456789ab", 1000),
            ("Download complete", "0123456789ab", 0),
            ("Extracting", "0123456789ab", 1000),
            ("Pull complete", "0123456789ab", 0),
        ):
            detail = {"current": done, "total": 1000} if done else {}
            await _chunk(
                writer, json.dumps({"status": status, "id": layer, "progressDetail": detail}).encode() + b"\r\n"
            )
            if done == 400 and self.pulls_wait is not None:
                self.held_pulls += 1
                await self.pulls_wait.wait()
        self.images[f"{name}:{tag}"] = image
        said = "Image is up to date" if known else "Downloaded newer image"
        await _chunk(writer, json.dumps({"status": f"Status: {said} for {name}:{tag}"}).encode() + b"\r\n")
        await _chunk(writer, b"")

    # --- containers

    def _find(self, name: str) -> _Container | None:
        return next((one for one in self.containers.values() if name in (one.id, one.name)), None)

    def _listed(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        found = []
        for container in self.containers.values():
            labels = container.spec.get("Labels") or {}
            wanted = (one.partition("=") for one in filters.get("label", ()))
            if all(labels.get(name) == value for name, _, value in wanted) and (
                container.entry()["State"] in filters.get("status", ("running", "exited"))
            ):
                found.append(container.entry())
        return found

    def _create(self, name: str, spec: dict[str, Any]) -> tuple[int, Any]:
        if self._find(name) is not None:
            return 409, {"message": f"Conflict. The container name {name!r} is already in use"}
        found = self._image(spec["Image"])
        if found is None:
            return 404, {"message": f"No such image: {spec['Image']}"}
        image = next(image for image in self.images.values() if image.id == found["Id"])
        container = _Container(hashlib.sha256(f"{name}{len(self.requests)}".encode()).hexdigest(), name, image, spec)
        self.containers[container.id] = container
        return 201, {"Id": container.id, "Warnings": []}

    async def _container(self, method: str, name: str, action: str) -> tuple[int, Any]:
        container = self._find(name)
        if container is None:
            return 404, {"message": f"No such container: {name}"}
        if method == "DELETE":
            await self._end(container, 137)
            del self.containers[container.id]
            return 204, None
        if action == "json":
            return 200, container.document()
        if action == "stats":
            return 200, {"cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}}}
        if action == "stop":
            await self._end(container, 0)
            return 204, None
        if action == "start":
            return await self._start(container)
        return 404, {"message": "page not found"}

    async def _start(self, container: _Container) -> tuple[int, Any]:
        if container.running:
            return 304, None
        wanted = container.spec["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"]
        if wanted and int(wanted) in self.taken_ports:
            return 500, {"message": f"driver failed: Bind for 127.0.0.1:{wanted} failed: port is already allocated"}
        environment = dict(one.split("=", 1) for one in container.spec.get("Env") or ())
        settings = {**container.image.environment, **environment}
        container.running, container.starts, container.output = True, container.starts + 1, []
        await self._print(container, f"debug: using key {settings.get('NGC_API_KEY', '')}")
        wants = settings.get("STANDIN_KEY", "")
        if wants and hashlib.sha256(settings.get("NGC_API_KEY", "").encode()).hexdigest() != wants:
            await self._print(container, "ERROR: 401 Unauthorized: the NGC_API_KEY is not valid for this model")
            container.port = 1
            asyncio.get_running_loop().call_soon(lambda: self._later(self._end(container, 1)))
            return 204, None
        if crash := settings.get("STANDIN_CRASH"):
            await self._print(container, "RuntimeError: the engine core failed to start")
            container.port, container.dies = 1, int(crash)  # once somebody waits for it
            return 204, None
        container.server = await asyncio.start_server(
            lambda reader, writer: self._nim(settings, reader, writer), "127.0.0.1", 0
        )
        container.port = container.server.sockets[0].getsockname()[1]
        await self._print(container, "ready to serve")
        return 204, None

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _nim(self, settings: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError), closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            model = settings.get("STANDIN_MODEL", "stand-in/model")
            if match := re.search(rb"(?i)content-length: (\d+)", head):
                self.asked.append(await reader.readexactly(int(match[1])))
                message = {"role": "assistant", "content": "hello"}
                known = json.loads(self.asked[-1])["model"] == model
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                answer = {"object": "chat.completion", "model": model, "choices": choices}
                await _reply(writer, 200 if known else 404, answer)
                return
            listed = {"object": "list", "data": [{"id": "an-adapter"}, {"id": model}]}
            await _reply(writer, 200, listed if b"/v1/models" in head else {"message": "Service is ready."})

    async def _print(self, container: _Container, text: str) -> None:
        line = text.encode() + b"\n"
        async with container.changed:
            container.output.append(b"\x01\x00\x00\x00" + len(line).to_bytes(4, "big") + line)
            container.changed.notify_all()

    async def _end(self, container: _Container, code: int) -> None:
        if not container.running:
            return
        if container.server is not None:
            container.server.close()
        async with container.changed:
            container.running, container.code = False, code
            container.changed.notify_all()

    async def _wait(self, writer: asyncio.StreamWriter, container: _Container) -> None:
        await _begin(writer)
        if container.dies is not None:
            await self._end(container, container.dies)
        async with container.changed:
            await container.changed.wait_for(lambda: not container.running)
        await _chunk(writer, json.dumps({"StatusCode": container.code}).encode())
        await _chunk(writer, b"")

    async def _logs(self, writer: asyncio.StreamWriter, container: _Container) -> None:
        await _begin(writer)
        sent = 0
        while container.running or sent < len(container.output):
            async with container.changed:
                while container.running and sent == len(container.output):
                    await container.changed.wait()
            for frame in container.output[sent:]:
                await _chunk(writer, frame)
                sent += 1
        await _chunk(writer, b"")


async def _reply(writer: asyncio.StreamWriter, status: int, document: Any) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    writer.write(b"HTTP/1.1 %d Fine\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
    await writer.drain()


async def _begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


@asynccontextmanager
async def fake_docker(directory: Path) -> AsyncIterator[FakeDocker]:
    """One that listens in ``directory`` for as long as this is entered."""
    fake = FakeDocker(directory / "docker.sock")
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
