"""A hub in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import RegistryUnreachableError, RemoteModelNotFoundError, UnauthorizedError
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.registry import BlobReader, Credentials

__all__ = ["InMemoryModelHub"]

_LARGE: Final = (".gguf", ".safetensors")
_MODIFIED: Final = datetime(2025, 6, 15, 12, tzinfo=UTC)


def _object_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@attrs.define(eq=False)
class InMemoryModelHub(ModelHub):
    """Repositories in dictionaries; weights are its large files.

    Features:
        * ``put`` the files of a revision; each state has a commit of its own, which stays.
        * Resuming: granted while ``ranges`` is true.
        * A file that breaks off: ``cut(path, after=n)``, once per call, with ``RegistryUnreachableError``.
        * A file whose bytes are not those listed: ``corrupt(path)``.
        * A repository for some only: ``gate(repository, token)``. Its files are listed for everybody.
        * ``requests`` lists what was asked, as ``"revision org/m@main"``, ``"files org/m"``, ``"file m.gguf@offset"``.
        * ``chunk`` is the size in bytes of the pieces a file comes in.
    """

    ranges: bool = True
    chunk: int = 64 * 1024
    modified: datetime = _MODIFIED
    requests: list[str] = attrs.field(factory=list)
    _revisions: dict[tuple[str, str], str] = attrs.field(factory=dict, init=False)
    _commits: dict[tuple[str, str], dict[str, bytes]] = attrs.field(factory=dict, init=False)
    _tokens: dict[str, str] = attrs.field(factory=dict, init=False)
    _cuts: dict[str, list[int]] = attrs.field(factory=dict, init=False)
    _wrong: set[str] = attrs.field(factory=set, init=False)

    @property
    def host(self) -> str:
        return "hub.example"

    def put(self, repository: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Make a revision of a repository hold these files; the commit."""
        listed = "".join(f"{path} {_object_name(content)}\n" for path, content in sorted(files.items()))
        commit = hashlib.sha1(listed.encode(), usedforsecurity=False).hexdigest()
        self._commits[repository, commit] = dict(files)
        self._revisions[repository, revision] = self._revisions[repository, commit] = commit
        return commit

    def cut(self, path: str, *, after: int) -> None:
        """Break the connection once, ``after`` so many bytes of an answer."""
        self._cuts.setdefault(path, []).append(after)

    def corrupt(self, path: str) -> None:
        """Send a file with its first byte wrong."""
        self._wrong.add(path)

    def gate(self, repository: str, token: str) -> None:
        """Give files of a repository only to whoever has ``token``."""
        self._tokens[repository] = token

    async def revision(self, repository: str, revision: str, credentials: Credentials | None = None) -> HubRevision:
        self.requests.append(f"revision {repository}@{revision}")
        commit = self._revisions.get((repository, revision))
        if commit is None:
            raise RemoteModelNotFoundError(f"hf.co/{repository}@{revision}")
        return HubRevision(repository=repository, commit=commit, modified=self.modified)

    async def files(self, revision: HubRevision, credentials: Credentials | None = None) -> tuple[HubFile, ...]:
        self.requests.append(f"files {revision.repository}")
        files = self._commits.get((revision.repository, revision.commit))
        if files is None:
            raise RemoteModelNotFoundError(f"hf.co/{revision.repository}@{revision.commit}")
        listed = [
            HubFile(
                path=RelativePath.parse(path),
                size=len(content),
                git_oid=_object_name(content),
                sha256=Digest.of(content) if path.endswith(_LARGE) else None,
            )
            for path, content in files.items()
        ]
        return tuple(sorted(listed, key=lambda file: file.path))

    @asynccontextmanager
    async def open_file(
        self,
        revision: HubRevision,
        file: HubFile,
        offset: int = 0,
        end: int | None = None,
        credentials: Credentials | None = None,
    ) -> AsyncIterator[BlobReader]:
        self.requests.append(f"file {file.path}@{offset}")
        wanted = self._tokens.get(revision.repository)
        if wanted is not None and (credentials is None or credentials.bearer_token != wanted):
            raise UnauthorizedError(f"'hf.co/{revision.repository}' is gated")
        content = self._commits.get((revision.repository, revision.commit), {}).get(file.path.text)
        if content is None:
            raise RemoteModelNotFoundError(f"hf.co/{revision.repository}", f"it has no file {file.path.text!r}")
        if file.path.text in self._wrong:
            content = bytes([content[0] ^ 0xFF]) + content[1:]
        granted = self.ranges and offset <= len(content)
        start, stop = (offset, len(content) if end is None else end) if granted else (0, len(content))
        pieces = self._pieces(file.path.text, content, start, stop)
        async with aclosing(pieces):
            yield BlobReader(start, pieces, end=stop)

    async def _pieces(self, path: str, content: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        cuts = self._cuts.get(path)
        last = min(stop, start + cuts.pop(0)) if cuts else stop
        for position in range(start, last, self.chunk):
            yield content[position : min(position + self.chunk, last)]
        if last < stop:
            raise RegistryUnreachableError("the connection broke before the answer was complete")
