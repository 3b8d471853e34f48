"""Packaging from files on disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from dmr_adapters.package_source.by_name import by_name
from dmr_adapters.package_source.dduf import dduf_metadata
from dmr_adapters.package_source.gguf_metadata import gguf_metadata
from dmr_adapters.package_source.safetensors import safetensors_metadata
from dmr_core.domain.artifact import Format
from dmr_core.domain.digest import Digest
from dmr_core.domain.files import Shard, weights_format
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import InvalidRequestError
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata

__all__ = ["FilesystemPackageSource"]

_BLOCK: Final = 1024 * 1024


class FilesystemPackageSource(PackageSource):
    """Reads the local file system; everything that may wait for a disk runs in a thread.

    A cancelled :meth:`describe` stops hashing within a block.
    """

    async def walk(self, directory: Path) -> tuple[RelativePath, ...]:
        return await asyncio.to_thread(_walk, directory)

    async def shards(self, path: Path) -> tuple[Path, ...]:
        return await asyncio.to_thread(_shards, path)

    async def describe(self, path: Path, name: RelativePath, read: Callable[[int], None] | None = None) -> SourceFile:
        abandoned = threading.Event()
        loop = asyncio.get_running_loop()

        def report(done: int) -> None:
            if read is not None:
                loop.call_soon_threadsafe(read, done)

        try:
            return await asyncio.to_thread(_describe, path, name, report, abandoned)
        finally:
            abandoned.set()

    async def metadata(self, files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
        return await asyncio.to_thread(_metadata, files, fmt)


def _metadata(files: Sequence[SourceFile], fmt: Format) -> WeightsMetadata:
    with by_name(files) as paths:
        weights = [path for path in paths if weights_format(path.name) is fmt]
        if fmt is Format.DDUF:
            return dduf_metadata(weights[0])
        return gguf_metadata(weights) if fmt is Format.GGUF else safetensors_metadata(weights)


def _walk(directory: Path) -> tuple[RelativePath, ...]:
    if not directory.is_dir():
        raise InvalidRequestError(f"no such directory: {str(directory)!r}; give the directory that holds the model")
    try:
        return tuple(RelativePath.parse(name) for name in _names(directory, ""))
    except OSError as exc:
        raise InvalidRequestError(f"cannot read {exc.filename!r}: {exc.strerror}") from exc


def _names(directory: Path, prefix: str) -> Iterator[str]:
    """Names below ``directory`` in the order of Go's ``filepath.WalkDir``: by bytes, a directory's content in its place.

    The stack instead of recursion: how deep a tree is, is not ours to decide.
    """
    stack = [_listing(directory, prefix)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry[1].is_dir(follow_symlinks=False):
            stack.append(_listing(Path(entry[1].path), entry[0] + "/"))
        elif entry[1].is_file(follow_symlinks=False):
            yield entry[0]


def _listing(directory: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(directory) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    visible.sort(key=lambda entry: os.fsencode(entry.name))
    for entry in visible:
        _check_encoding(entry.name, entry.path)
        yield prefix + entry.name, entry


def _check_encoding(name: str, path: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequestError(f"the name of {os.fsencode(path)!r} is not UTF-8: rename the file") from exc


def _shards(path: Path) -> tuple[Path, ...]:
    _check_file(path)
    shard = Shard.of(path.name)
    if shard is None:
        return (path,)
    if not shard.is_consistent:
        raise InvalidRequestError(
            f"{str(path)!r} calls itself shard {shard.number} of {shard.total}: rename it, or give the right file"
        )
    missing = [name for name in shard.names if not (path.parent / name).is_file()]
    if missing:
        found = shard.total - len(missing)
        raise InvalidRequestError(
            f"incomplete shard set: found {found} of {shard.total} shards for {str(path)!r}; "
            f"{missing[0]!r} is missing next to it: download or copy it too"
        )
    return tuple(path.parent / name for name in shard.names)


def _check_file(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise InvalidRequestError(f"cannot open {str(path)!r}: {reason}") from exc
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequestError(f"cannot open {str(path)!r}: it is not a regular file")
    return status


def _describe(path: Path, name: RelativePath, report: Callable[[int], None], abandoned: threading.Event) -> SourceFile:
    before = _check_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            digest, size = _hash(file, report, abandoned)
            after = os.fstat(file.fileno())
    except OSError as exc:
        raise InvalidRequestError(f"cannot read {str(path)!r}: {exc.strerror}") from exc
    if (size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise InvalidRequestError(f"{str(path)!r} changed while it was read: wait until it is complete, and try again")
    return SourceFile(
        path=path,
        name=name,
        digest=digest,
        size=size,
        mode=stat.S_IMODE(after.st_mode) & 0o777,
        mtime_ns=after.st_mtime_ns,
    )


def _hash(file: FileIO, report: Callable[[int], None], abandoned: threading.Event) -> tuple[Digest, int]:
    hasher, size = hashlib.sha256(), 0
    block = memoryview(bytearray(_BLOCK))
    while not abandoned.is_set() and (count := file.readinto(block)):
        hasher.update(block[:count])
        size += count
        report(size)
    return Digest(hasher.hexdigest()), size
