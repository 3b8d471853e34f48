"""What every hub adapter promises. Subclass :class:`ModelHubContract` and override ``subject``."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_repository import HubFile
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import RemoteModelNotFoundError, UnauthorizedError
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.registry import Credentials

__all__ = ["READER", "ModelHubContract", "ModelHubSubject"]

READER: Final = "token-of-a-reader"
"""Whom a gated repository of the suite lets in."""

_LARGE: Final = bytes(range(256)) * 4096  # 1 MiB, so that it comes in several pieces
_FILES: Final = {"m.gguf": _LARGE, "a dir/b#ö%.json": b"{}", "empty.txt": b"", "README.md": b"# a model\n"}


@attrs.frozen
class ModelHubSubject:
    """The adapter under test. ``seed`` gives a repository a revision by other means than the adapter.

    With ``gated`` only :data:`READER` gets files.
    """

    hub: ModelHub
    seed: Callable[[str, Mapping[str, bytes], str, bool], Awaitable[None]]

    async def put(
        self, repository: str, files: Mapping[str, bytes] = _FILES, *, revision: str = "main", gated: bool = False
    ) -> str:
        """Seed a revision; the repository's name."""
        await self.seed(repository, files, revision, gated)
        return repository


class ModelHubContract(ABC):
    """The suite. Every test uses a repository of its own, so one hub may serve them all."""

    @pytest.fixture
    @abstractmethod
    def subject(self) -> ModelHubSubject:
        """The hub under test."""

    async def test_a_revision_is_a_commit_that_names_itself(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Revision")
        found = await subject.hub.revision(name, "main")
        assert found.repository == name
        assert len(found.commit) == 40
        assert found.modified.tzinfo is not None
        assert await subject.hub.revision(name, found.commit) == found

    async def test_revisions_are_apart(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Apart")
        await subject.put("Org/Apart", {"other.gguf": b"other"}, revision="refs/pr/1")
        main, other = [await subject.hub.revision(name, revision) for revision in ("main", "refs/pr/1")]
        assert main.commit != other.commit
        assert [file.path.text for file in await subject.hub.files(other)] == ["other.gguf"]

    async def test_what_is_not_there_is_no_model(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Known")
        for repository, revision in ((name, "missing"), ("Org/Unknown", "main")):
            with pytest.raises(RemoteModelNotFoundError):
                await subject.hub.revision(repository, revision)

    async def test_files_are_listed_with_their_sizes_and_names_of_content(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Listed")
        files = await subject.hub.files(await subject.hub.revision(name, "main"))
        assert [(file.path.text, file.size) for file in files] == sorted((p, len(c)) for p, c in _FILES.items())
        by_path = {file.path.text: file for file in files}
        assert by_path["m.gguf"].sha256 == Digest.of(_LARGE)
        assert by_path["README.md"].sha256 is None
        content = _FILES["README.md"]
        named = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        assert by_path["README.md"].git_oid == named

    @pytest.mark.parametrize(
        ("offset", "end"),
        [(0, None), (1, None), (700_000, None), (0, 10), (5, 700_000), (len(_LARGE) - 1, None), (len(_LARGE), None)],
    )
    async def test_a_file_is_received_from_where_the_reader_says(
        self, subject: ModelHubSubject, offset: int, end: int | None
    ) -> None:
        received, start, stop = await self._receive(subject, await subject.put("Org/Ranges"), "m.gguf", offset, end)
        assert (start, stop) in {(offset, len(_LARGE) if end is None else end), (0, len(_LARGE))}
        assert received == _LARGE[start:stop]

    async def test_every_name_of_a_file_can_be_received(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Names")
        for path, content in _FILES.items():
            assert await self._receive(subject, name, path) == (content, 0, len(content))

    async def test_an_offset_behind_the_end_starts_over(self, subject: ModelHubSubject) -> None:
        received = await self._receive(subject, await subject.put("Org/Behind"), "m.gguf", len(_LARGE) + 1)
        assert received == (_LARGE, 0, len(_LARGE))

    async def test_a_file_may_be_left_half_read(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Half")
        revision = await subject.hub.revision(name, "main")
        file = next(file for file in await subject.hub.files(revision) if file.path.text == "m.gguf")
        async with subject.hub.open_file(revision, file) as reader:
            assert await anext(reader.chunks)
        assert await self._receive(subject, name, "m.gguf") == (_LARGE, 0, len(_LARGE))

    async def test_a_file_that_is_not_there_is_no_model(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Absent")
        revision = await subject.hub.revision(name, "main")
        absent = HubFile(path=RelativePath("absent.gguf"), size=3, git_oid="0" * 40, sha256=Digest.of(b"abc"))
        with pytest.raises(RemoteModelNotFoundError, match=r"absent\.gguf"):
            async with subject.hub.open_file(revision, absent):
                pass

    async def test_a_gated_file_is_for_who_was_let_in(self, subject: ModelHubSubject) -> None:
        name = await subject.put("Org/Gated", gated=True)
        with pytest.raises(UnauthorizedError, match="gated"):
            await self._receive(subject, name, "README.md")
        received, *_ = await self._receive(subject, name, "README.md", token=READER)
        assert received == _FILES["README.md"]

    async def _receive(
        self,
        subject: ModelHubSubject,
        name: str,
        path: str,
        offset: int = 0,
        end: int | None = None,
        token: str | None = None,
    ) -> tuple[bytes, int, int | None]:
        revision = await subject.hub.revision(name, "main")
        file = next(file for file in await subject.hub.files(revision) if file.path.text == path)
        credentials = Credentials(token) if token else None
        async with subject.hub.open_file(revision, file, offset, end, credentials) as reader:
            return b"".join([chunk async for chunk in reader.chunks]), reader.offset, reader.end
