"""The part of the Docker Engine API that NIMs need (https://docs.docker.com/reference/api/engine/, v1.41 and later)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs

from dmr_backends_nim.docker_host import DockerHost
from dmr_backends_nim.http_client import Answer, HttpClient, NoAnswerError
from dmr_core.errors import BackendNotInstalledError, UpstreamError

__all__ = ["BACKEND", "DockerEngine", "DockerError", "DockerUnreachableError"]

BACKEND: Final = "nim"

_QUICK: Final = 2.0
_PATIENCE: Final = 60.0
"""Seconds the engine may take for what it does at once on a machine that is well."""

_REMOVING: Final = 600.0
"""Seconds that deleting an image of tens of gigabytes may take."""

_SILENT_PULL: Final = 900.0
"""Seconds between two lines of a pull: while it verifies or unpacks a large layer, the engine says nothing."""

_VERSION: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_MAX_REASON: Final = 2000


class DockerUnreachableError(BackendNotInstalledError):
    """No Docker Engine answers; the message says where it was looked for, and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            BACKEND, f"{reason}. NIMs need a Docker Engine: start it, or see https://docs.docker.com/engine/install"
        )


class DockerError(UpstreamError):
    """The Docker Engine refused a request; ``reason`` is what it said."""

    def __init__(self, status: int, reason: str, doing: str) -> None:
        super().__init__(f"the Docker Engine could not {doing}: {reason}")
        self.status = status
        self.reason = reason


@attrs.define(eq=False)
class DockerEngine:
    """One Docker Engine. Every method raises ``DockerUnreachableError`` where it does not answer."""

    host: DockerHost
    _version: str = ""

    # --- the engine itself

    async def ping(self) -> str:
        """Its version, quickly."""
        answer = await self._json("GET", "/version", doing="say its version", versioned=False, timeout=_QUICK)
        found = answer.get("ApiVersion")
        if isinstance(found, str) and _VERSION.fullmatch(found):
            self._version = found
        return _text(answer.get("Version"))

    async def runtimes(self) -> frozenset[str]:
        """The names of the container runtimes it knows."""
        answer = await self._json("GET", "/info", doing="describe itself")
        runtimes = answer.get("Runtimes")
        return frozenset(runtimes) if isinstance(runtimes, dict) else frozenset()

    # --- images

    async def images(self) -> list[dict[str, Any]]:
        """Every image it has."""
        return await self._list("/images/json", {}, "list its images", timeout=_QUICK)

    async def image(self, name: str) -> dict[str, Any] | None:
        """An image, by name or ID."""
        return await self._find(f"/images/{_part(name)}/json", "look at an image")

    @asynccontextmanager
    async def pull(self, name: str, tag: str, auth: str) -> AsyncGenerator[AsyncGenerator[dict[str, Any], None], None]:
        """Pull an image; inside the context are the lines of progress. Leaving it early cancels the pull.

        ``auth`` is the value of ``X-Registry-Auth``, empty for none.

        Raises:
            DockerError: it does not begin.
            NoAnswerError (while iterating): the engine went away.
        """
        target = await self._target("/images/create", {"fromImage": name, "tag": tag})
        headers = {"X-Registry-Auth": auth} if auth else {}
        async with self._send("POST", target, headers=headers, timeout=_SILENT_PULL, patience=_SILENT_PULL) as answer:
            await self._expect(answer, "pull the image")
            async with aclosing(_documents(answer)) as documents:
                yield documents

    async def remove_image(self, name: str) -> None:
        """Untag an image; with its last name it is deleted. One that is not there is no error."""
        await self._do("DELETE", f"/images/{_part(name)}", "remove the image", gone=True, timeout=_REMOVING)

    # --- containers

    async def containers(self, filters: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        """Containers, running or not, that match."""
        return await self._list(
            "/containers/json", {"all": "1", "filters": json.dumps(dict(filters))}, "list containers"
        )

    async def container(self, container_id: str) -> dict[str, Any] | None:
        """A container, by ID or name."""
        return await self._find(f"/containers/{_part(container_id)}/json", "look at a container")

    async def create(self, name: str, spec: Mapping[str, Any]) -> str:
        """Create a container; its ID."""
        answer = await self._json(
            "POST", "/containers/create", query={"name": name}, body=spec, doing="create the container"
        )
        return _text(answer.get("Id"))

    async def start(self, container_id: str) -> None:
        """Start a container; one that runs is no error."""
        await self._do("POST", f"/containers/{_part(container_id)}/start", "start the container")

    async def stop(self, container_id: str, grace: float) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds; returns once it has ended. One that is gone is no error."""
        seconds = max(0, round(grace))
        path = f"/containers/{_part(container_id)}/stop"
        await self._do(
            "POST", path, "stop the container", query={"t": str(seconds)}, gone=True, timeout=grace + _PATIENCE
        )

    async def remove(self, container_id: str) -> None:
        """Remove a container, whatever it does. One that is gone is no error."""
        query = {"force": "1", "v": "1"}
        await self._do("DELETE", f"/containers/{_part(container_id)}", "remove the container", query=query, gone=True)

    async def cpu_seconds(self, container_id: str) -> float | None:
        """CPU time that a container has used; ``None`` where the engine does not count it."""
        query = {"stream": "false", "one-shot": "true"}
        found = await self._json(
            "GET",
            f"/containers/{_part(container_id)}/stats",
            query=query,
            doing="measure the container",
            timeout=_QUICK,
        )
        cpu = found.get("cpu_stats")
        usage = cpu.get("cpu_usage") if isinstance(cpu, dict) else None
        total = usage.get("total_usage") if isinstance(usage, dict) else None
        return total / 1e9 if isinstance(total, int) else None

    async def ended(self, container_id: str) -> None:
        """Return once the container does not run."""
        target = await self._target(f"/containers/{_part(container_id)}/wait", {"condition": "not-running"})
        # An engine may keep even the head of its answer back until then.
        async with self._send("POST", target, timeout=365 * 24 * 3600.0, patience=None) as answer:
            await self._expect(answer, "wait for the container", gone=True)
            await answer.read()

    @asynccontextmanager
    async def logs(
        self, container_id: str, *, since: str, tail: int
    ) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """What the container prints, from ``since`` (a Unix time) on, its last ``tail`` lines first; until it ends."""
        query = {"follow": "1", "stdout": "1", "stderr": "1", "since": since, "tail": str(tail)}
        target = await self._target(f"/containers/{_part(container_id)}/logs", query)
        async with self._send("GET", target, patience=None) as answer:
            await self._expect(answer, "show the container's output")
            async with aclosing(answer.chunks()) as chunks:
                yield chunks

    # --- details

    @asynccontextmanager
    async def _send(self, method: str, target: str, **options: Any) -> AsyncGenerator[Answer, None]:
        if self.host.socket is None:
            raise DockerUnreachableError(self.host.problem)
        client, sent = HttpClient(self.host.socket), False
        try:
            async with client.send(method, target, **options) as answer:
                sent = True
                yield answer
        except NoAnswerError as exc:
            if sent:
                raise
            raise DockerUnreachableError(exc.message) from exc

    async def _target(self, path: str, query: Mapping[str, str] | None = None, *, versioned: bool = True) -> str:
        if versioned and not self._version:
            await self.ping()
        prefix = f"/v{self._version}" if versioned and self._version else ""
        return prefix + path + (f"?{urlencode(query)}" if query else "")

    async def _json(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        versioned: bool = True,
        timeout: float = _PATIENCE,
    ) -> dict[str, Any]:
        found = await self._fetch(
            method, path, doing=doing, query=query, body=body, versioned=versioned, timeout=timeout
        )
        if not isinstance(found, dict):
            raise DockerError(200, "its answer is no JSON object", doing)
        return found

    async def _list(
        self, path: str, query: Mapping[str, str], doing: str, timeout: float = _PATIENCE
    ) -> list[dict[str, Any]]:
        found = await self._fetch("GET", path, doing=doing, query=query, timeout=timeout)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise DockerError(200, "its answer is no list of JSON objects", doing)
        return found

    async def _find(self, path: str, doing: str) -> dict[str, Any] | None:
        try:
            return await self._json("GET", path, doing=doing)
        except DockerError as exc:
            if exc.status == 404:
                return None
            raise

    async def _do(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        gone: bool = False,
        timeout: float = _PATIENCE,
        query: Mapping[str, str] | None = None,
    ) -> None:
        target = await self._target(path, query)
        async with self._send(method, target, timeout=timeout, patience=timeout) as answer:
            await self._expect(answer, doing, gone=gone)
            await answer.read()

    async def _fetch(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        versioned: bool = True,
        timeout: float = _PATIENCE,
    ) -> Any:
        target = await self._target(path, query, versioned=versioned)
        content = None if body is None else json.dumps(body).encode()
        try:
            async with (
                asyncio.timeout(2 * timeout),
                self._send(method, target, body=content, timeout=timeout, patience=timeout) as answer,
            ):
                await self._expect(answer, doing)
                return json.loads(await answer.read() or b"null")
        except TimeoutError as exc:
            raise DockerUnreachableError(f"the Docker Engine at {self.host} takes too long to {doing}") from exc
        except (ValueError, RecursionError) as exc:
            raise DockerError(200, "its answer is no JSON", doing) from exc

    async def _expect(self, answer: Answer, doing: str, *, gone: bool = False) -> None:
        if answer.status < 400 or (gone and answer.status == 404):
            return
        try:
            found = json.loads(await answer.read(_MAX_REASON * 10))
        except (NoAnswerError, ValueError, RecursionError):
            found = None
        reason = _text(found.get("message")) if isinstance(found, dict) else ""
        raise DockerError(answer.status, reason[:_MAX_REASON] or f"it answered {answer.status}", doing)


async def _documents(answer: Answer) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(answer.lines()) as lines:
        async for line in lines:
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue  # nothing of a pull hangs on one line of its progress
            if isinstance(document, dict):
                yield document


def _part(name: str) -> str:
    """A name in a path. Those of images keep their slashes, as the engine's router wants it."""
    return quote(name, safe="/:@")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
