"""The Hugging Face Hub, emulated: two aiohttp servers in this process, on loopback.

One is the Hub (its API and ``/resolve/``), the other the storage that ``/resolve/`` sends to for large
files. What the API answers follows huggingface.co: listings in pages, ``X-Error-Code``, 401 both for what
is private and for what is missing, 302 to storage with ``X-Linked-Size`` and ``X-Linked-ETag``, 307 for
renamed repositories. Everything either was sent is kept in ``seen``, so that a test can say what must not
have been sent; a ``script`` laid over it answers some requests in another way.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import unquote

import attrs
from aiohttp import web

__all__ = ["EmulatedHub", "HubRepository", "Script", "Seen", "emulated_hub", "git_oid"]

_LARGE: Final = (".gguf", ".safetensors", ".bin")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK: Final = 16 * 1024
LAST_MODIFIED: Final = "2025-06-15T12:00:00.000Z"


def git_oid(content: bytes) -> str:
    """The name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@attrs.frozen
class Seen:
    """A request as it arrived. ``storage``: not at the Hub itself but where it sends to."""

    storage: bool
    path: str
    query: str
    headers: Mapping[str, str]

    @property
    def authorization(self) -> str | None:
        """The credentials it brought."""
        return self.headers.get("Authorization")


@attrs.define(kw_only=True)
class HubRepository:
    """One repository. ``revisions`` holds the files of every branch, tag or commit; ``main`` is always there.

    ``gated``: only ``readers`` may have files of it; ``private``: only they learn that it exists.
    """

    name: str
    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False
    readers: set[str] = attrs.field(factory=set)
    last_modified: str = LAST_MODIFIED
    plain: set[str] = attrs.field(factory=set)

    def commit(self, revision: str) -> str | None:
        """The commit a branch, a tag or a commit stands for: a digest of what is in it."""
        for name, files in self.revisions.items():
            entries = "".join(f"{path} {hashlib.sha256(content).hexdigest()}\n" for path, content in files.items())
            commit = hashlib.sha1(f"{self.name} {entries}".encode(), usedforsecurity=False).hexdigest()
            if revision in {name, commit}:
                return commit
        return None

    def files(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)

    def is_large(self, path: str) -> bool:
        """Whether Git LFS has the file."""
        return path.endswith(_LARGE) and path not in self.plain


Script = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a request in its own way, or leaves it to the Hub with ``None``."""


@attrs.define(eq=False)
class EmulatedHub:
    """Both servers. ``tokens`` are those that somebody has; any other is refused.

    Features:
        * ``page``: how many entries a page of a listing has;
        * ``ranges``: whether storage grants them;
        * ``cuts``: by path, after how many bytes of an answer storage breaks the connection, one per request;
        * ``wrong``: paths whose stored bytes are not those the listing names;
        * ``renamed``: old names of repositories.
    """

    port: int = 0
    storage_port: int = 0
    page: int = 1000
    ranges: bool = True
    script: Script | None = None
    tokens: set[str] = attrs.field(factory=set)
    repositories: dict[str, HubRepository] = attrs.field(factory=dict)
    renamed: dict[str, str] = attrs.field(factory=dict)
    cuts: dict[str, list[int]] = attrs.field(factory=dict)
    wrong: set[str] = attrs.field(factory=set)
    seen: list[Seen] = attrs.field(factory=list)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)
    sent: int = 0

    @property
    def url(self) -> str:
        """What to set ``HF_ENDPOINT`` to."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Mapping[str, bytes], **options: Any) -> HubRepository:
        """Make a repository with one branch."""
        repository = HubRepository(name=name, revisions={"main": dict(files)}, **options)
        self.repositories[name] = repository
        return repository

    def paths(self, *, storage: bool) -> list[str]:
        """Where requests went, in order."""
        return [request.path for request in self.seen if request.storage is storage]

    # --- the Hub

    async def serve_hub(self, request: web.Request) -> web.StreamResponse:
        """The API and ``/resolve/``."""
        self._note(request, storage=False)
        answer = await self.script(request) if self.script else None
        return answer or self._hub(request)

    def _hub(self, request: web.Request) -> web.StreamResponse:
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        verbs = ("revision", "tree") if is_api else ("resolve",)
        rest = parts[2:] if is_api else parts
        at = next((index for index, part in enumerate(rest[:3]) if part in verbs), None)
        if at is None:
            at = len(rest) if is_api else 0
        name, verb = "/".join(rest[:at]), "".join(rest[at : at + 1])
        if name in self.renamed:
            raw = request.rel_url.raw_path_qs.replace(name, self.renamed[name], 1)
            return web.Response(status=307, headers={"Location": raw})
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token not in repository.readers):
            # To nobody in particular the Hub does not tell what is private from what is missing.
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        commit = repository.commit(rest[at + 1] if len(rest) > at + 1 else "main")
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {rest[at + 1]}")
        if verb in {"", "revision"}:
            return self._info(repository, commit)
        if verb == "tree":
            return self._tree(request, repository, commit, "/".join(rest[at + 2 :]))
        return self._resolve(request, repository, commit, "/".join(rest[at + 2 :]), token)

    def _info(self, repository: HubRepository, commit: str) -> web.Response:
        files = repository.files(commit)
        document = {
            "_id": "0",
            "id": repository.name,
            "modelId": repository.name,
            "sha": commit,
            "lastModified": repository.last_modified,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "siblings": [{"rfilename": path} for path in files],
        }
        return web.json_response(document)

    def _tree(self, request: web.Request, repository: HubRepository, commit: str, below: str) -> web.Response:
        entries = list(self._entries(repository, commit, below, request.query.get("recursive", "").lower() == "true"))
        start = int(request.query.get("cursor", "0"))
        end = start + self.page
        headers = {}
        if end < len(entries):
            following = request.url.update_query(cursor=str(end))
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(entries[start:end], headers=headers)

    def _entries(
        self,
        repository: HubRepository,
        commit: str,
        below: str,
        recursive: bool,
    ) -> Iterable[dict[str, Any]]:
        directories: set[str] = set()
        prefix = f"{below}/" if below else ""
        for path, content in repository.files(commit).items():
            inner = path.removeprefix(prefix)
            if not path.startswith(prefix):
                continue
            parents = inner.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                directory = prefix + "/".join(parents[:depth])
                if directory not in directories and (recursive or depth == 1):
                    directories.add(directory)
                    yield {"type": "directory", "oid": "0" * 40, "size": 0, "path": directory}
            if recursive or not parents:
                yield self._entry(repository, path, content)

    def _entry(self, repository: HubRepository, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
        if repository.is_large(path):
            digest = hashlib.sha256(content).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
            entry["oid"] = git_oid(pointer)
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": len(pointer)}
        return entry

    def _resolve(
        self, request: web.Request, repository: HubRepository, commit: str, path: str, token: str
    ) -> web.StreamResponse:
        if repository.gated and token not in repository.readers:
            status, who = (403, "you are not in the authorized list") if token else (401, "Please log in")
            return _error(status, "GatedRepo", f"Access to model {repository.name} is restricted, {who}.")
        content = repository.files(commit).get(path)
        if content is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{git_oid(content)}"'}
        if not repository.is_large(path):
            body = _flipped(content) if path in self.wrong else content
            return web.Response(body=body, headers=headers)
        digest = hashlib.sha256(content).hexdigest()
        target = f"http://127.0.0.1:{self.storage_port}/{repository.name}/{digest}?path={path}&Signature=a%2Fb%7E"
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"', "ETag": f'"{digest}"'}
        headers |= {"Location": target, "X-Xet-Hash": digest}
        headers["Link"] = f'<{self.url}/api/models/{repository.name}/xet-read-token/{commit}>; rel="xet-auth"'
        return web.Response(status=302, text="Found. Redirecting", headers=headers)

    # --- the storage

    async def serve_storage(self, request: web.Request) -> web.StreamResponse:
        """Large files, by a signed address, in ranges."""
        self._note(request, storage=True)
        answer = await self.script(request) if self.script else None
        if answer is not None:
            return answer
        if request.query.get("Signature") != "a/b~":
            return web.Response(status=403, text="SignatureDoesNotMatch")
        name, _, digest = request.path.strip("/").rpartition("/")
        path = request.query["path"]
        content = next(
            files[path]
            for files in self.repositories[name].revisions.values()
            if path in files and hashlib.sha256(files[path]).hexdigest() == digest
        )
        if path in self.wrong:
            content = _flipped(content)
        start, end, status = 0, len(content), 200
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked and self.ranges:
            start, end = int(asked[1]), min(int(asked[2] or len(content)) + bool(asked[2]), len(content))
            status = 206
            if start >= len(content):
                return web.Response(status=416)
        return await self._send(request, content, start, end, status)

    async def _send(
        self, request: web.Request, content: bytes, start: int, end: int, status: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        response.content_length = end - start
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        cuts = self.cuts.get(request.query["path"])
        stop = min(end, start + cuts.pop(0)) if cuts else end
        for position in range(start, stop, _CHUNK):
            piece = content[position : min(position + _CHUNK, stop)]
            await response.write(piece)
            self.sent += len(piece)
        if stop < end and request.transport is not None:
            request.transport.close()  # what was written is still sent
        return response

    def _note(self, request: web.Request, *, storage: bool) -> None:
        self.seen.append(Seen(storage, request.path, request.rel_url.raw_query_string, dict(request.headers)))


@asynccontextmanager
async def emulated_hub() -> AsyncIterator[EmulatedHub]:
    """Run both until the block ends; ``released`` is set then, so that hanging scripts let go."""
    hub = EmulatedHub()
    async with AsyncExitStack() as stack:
        hub.storage_port = await _listen(hub.serve_storage, stack)
        hub.port = await _listen(hub.serve_hub, stack)
        stack.callback(hub.released.set)
        yield hub


async def _listen(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], stack: AsyncExitStack) -> int:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


def _flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 0xFF]) + content[1:]
