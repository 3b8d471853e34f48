"""What every :class:`~dmr_core.ports.package_source.PackageSource` does, as tests.

Subclass :class:`PackageSourceContract` in a test module and override the fixtures ``source`` and ``put``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from dmr_core.domain.artifact import Format
from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import PackageSource, SourceFile

__all__ = ["MTIME", "PackageSourceContract", "Put"]

MTIME = 1_750_000_000_123_456_700
"""When the files of the suite were last changed, in nanoseconds since the epoch."""


class Put(Protocol):
    """Makes a file that the source under test will find."""

    def __call__(self, name: str, content: bytes = b"", *, mode: int = 0o644, mtime_ns: int = MTIME) -> Path:
        """Make the file ``name``, relative to some directory, and return its absolute path."""


class PackageSourceContract:
    """The contract of the port."""

    @pytest.fixture
    def source(self) -> PackageSource:
        raise NotImplementedError

    @pytest.fixture
    def put(self) -> Put:
        raise NotImplementedError

    async def test_walk_lists_files_in_lexical_order_of_their_components(self, source: PackageSource, put: Put) -> None:
        for name in ("model/b.txt", "model/a.txt", "model/a/z", "model/a/B", "model/Z", "model/a-b/c"):
            path = put(name)
        root = next(parent for parent in path.parents if parent.name == "model")

        names = [name.text for name in await source.walk(root)]

        assert names == ["Z", "a/B", "a/z", "a-b/c", "a.txt", "b.txt"]

    async def test_walk_leaves_out_hidden_files_and_directories(self, source: PackageSource, put: Put) -> None:
        root = put("seen").parent
        put(".hidden")
        put(".git/config")
        put("sub/.cache/x")

        assert await source.walk(root) == (RelativePath.parse("seen"),)

    async def test_walk_of_no_directory_is_refused(self, source: PackageSource, put: Put) -> None:
        missing = put("seen").parent / "missing"

        with pytest.raises(InvalidRequestError, match="missing"):
            await source.walk(missing)

    async def test_a_file_without_shards_stands_for_itself(self, source: PackageSource, put: Put) -> None:
        path = put("model.gguf")

        assert await source.shards(path) == (path,)

    async def test_any_shard_finds_its_siblings_in_order(self, source: PackageSource, put: Put) -> None:
        third, first, second = (put(f"m-0000{number}-of-00003.gguf") for number in (3, 1, 2))

        assert await source.shards(second) == (first, second, third)

    async def test_a_missing_shard_is_named(self, source: PackageSource, put: Put) -> None:
        path = put("m-00001-of-00002.gguf")

        with pytest.raises(InvalidRequestError, match="m-00002-of-00002"):
            await source.shards(path)

    async def test_a_shard_beyond_its_own_total_is_refused(self, source: PackageSource, put: Put) -> None:
        path = put("m-00003-of-00002.gguf")

        with pytest.raises(InvalidRequestError, match="shard 3 of 2"):
            await source.shards(path)

    async def test_a_missing_file_is_refused_by_name(self, source: PackageSource, put: Put) -> None:
        missing = put("seen").parent / "missing.gguf"

        with pytest.raises(InvalidRequestError, match=r"missing\.gguf"):
            await source.shards(missing)
        with pytest.raises(InvalidRequestError, match=r"missing\.gguf"):
            await source.describe(missing, RelativePath.parse("missing.gguf"))

    async def test_describe_tells_what_a_file_is(self, source: PackageSource, put: Put) -> None:
        path = put("x.bin", b"content", mode=0o640)

        file = await source.describe(path, RelativePath.parse("sub/x.bin"))

        assert file == SourceFile(
            path=path,
            name=RelativePath.parse("sub/x.bin"),
            digest=Digest.of(b"content"),
            size=7,
            mode=0o640,
            mtime_ns=MTIME,
        )

    async def test_describe_reports_every_byte_before_it_returns(self, source: PackageSource, put: Put) -> None:
        content = bytes(3 * 1024 * 1024 + 5)
        path = put("big.bin", content)
        reported: list[int] = []

        await source.describe(path, RelativePath.parse("big.bin"), reported.append)

        assert reported == sorted(set(reported))
        assert reported[-1] == len(content)
        assert len(reported) > 1

    @pytest.mark.parametrize(("fmt", "content"), [(Format.GGUF, b"no GGUF"), (Format.SAFETENSORS, b"\xff" * 16)])
    async def test_metadata_of_a_broken_header_names_the_file(
        self, source: PackageSource, put: Put, fmt: Format, content: bytes
    ) -> None:
        path = put(f"broken.{fmt.value}", content)
        file = await source.describe(path, RelativePath.parse(path.name))

        with pytest.raises(MalformedArtifactError, match=r"broken.*at byte"):
            await source.metadata([file], fmt)
