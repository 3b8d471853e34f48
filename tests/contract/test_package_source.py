"""The fake and the file system keep the contract of the package source."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dmr_adapters.package_source.filesystem import FilesystemPackageSource
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError
from dmr_core.ports.package_source import PackageSource
from dmr_core.testing.contracts.package_source import MTIME, PackageSourceContract, Put
from dmr_core.testing.fakes.package_source import InMemoryPackageSource


class TestInMemoryPackageSource(PackageSourceContract):
    @pytest.fixture
    def source(self) -> InMemoryPackageSource:
        return InMemoryPackageSource()

    @pytest.fixture
    def put(self, source: PackageSource) -> Put:
        assert isinstance(source, InMemoryPackageSource)

        def put(name: str, content: bytes = b"", *, mode: int = 0o644, mtime_ns: int = MTIME) -> Path:
            return source.put(Path("/files") / name, content, mode=mode, mtime_ns=mtime_ns)

        return put


class TestFilesystemPackageSource(PackageSourceContract):
    @pytest.fixture
    def source(self) -> FilesystemPackageSource:
        return FilesystemPackageSource()

    @pytest.fixture
    def put(self, tmp_path: Path) -> Put:
        def put(name: str, content: bytes = b"", *, mode: int = 0o644, mtime_ns: int = MTIME) -> Path:
            path = tmp_path / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
            os.utime(path, ns=(mtime_ns, mtime_ns))
            return path

        return put

    async def test_walk_leaves_out_symbolic_links_and_devices(self, source: PackageSource, put: Put) -> None:
        root = put("seen").parent
        (root / "link").symlink_to(root / "seen")
        (root / "loop").symlink_to(root, target_is_directory=True)
        os.mkfifo(root / "fifo")

        assert await source.walk(root) == (RelativePath.parse("seen"),)

    async def test_a_name_that_is_not_utf8_is_refused(self, source: PackageSource, put: Put) -> None:
        root = put("seen").parent
        (root / os.fsdecode(b"caf\xe9.txt")).touch()

        with pytest.raises(InvalidRequestError, match="not UTF-8"):
            await source.walk(root)

    async def test_a_pipe_is_refused_without_waiting_for_its_writer(self, source: PackageSource, put: Put) -> None:
        pipe = put("seen").with_name("pipe.gguf")
        os.mkfifo(pipe)

        with pytest.raises(InvalidRequestError, match="not a regular file"):
            await source.describe(pipe, RelativePath.parse("pipe.gguf"))

    async def test_a_cancelled_describe_stops_reading(self, source: PackageSource, put: Put) -> None:
        path = put("big.bin", bytes(64 * 1024 * 1024))
        started = asyncio.Event()
        last = 0

        def read(done: int) -> None:
            nonlocal last
            last = done
            started.set()

        task = asyncio.ensure_future(source.describe(path, RelativePath.parse("big.bin"), read))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert last < 64 * 1024 * 1024

    async def test_an_unusable_path_is_refused(self, source: PackageSource) -> None:
        with pytest.raises(InvalidRequestError, match="cannot open"):
            await source.shards(Path("/nul\0byte"))
