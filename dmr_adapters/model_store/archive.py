"""Unpacking the tar layers that older artifacts carry. A tar file is hostile input."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError

__all__ = ["unpack"]

_MAX_MEMBERS: Final = 100_000
_MAX_HEADER: Final = 16 * 1024 * 1024


def unpack(archive: Path, target: Path) -> None:
    """Unpack an uncompressed tar file into ``target``: regular files and directories, nothing else.

    Links and devices are left out. What is in ``target`` already stays as it is.

    Raises:
        MalformedArtifactError: not a tar file, a name that leaves ``target``, or a file where a directory is to be.
    """
    try:
        with _BoundedFile(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _unpack_members(tar, target)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as exc:
        raise MalformedArtifactError(f"malformed tar layer: {exc}") from exc
    except (FileExistsError, NotADirectoryError) as exc:
        raise MalformedArtifactError("malformed tar layer: a name is to be both a file and a directory") from exc


class _BoundedFile(io.FileIO):
    """Refuses to read more at once than a header may be: extended headers are held in memory whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise MalformedArtifactError("malformed tar layer: a header of unreasonable size")
        return super().read(size) or b""


def _unpack_members(tar: tarfile.TarFile, target: Path) -> None:
    last = -1
    for count, member in enumerate(tar):
        # A crafted size can send the reader back to where it was, for ever.
        if member.offset <= last or count >= _MAX_MEMBERS:
            raise MalformedArtifactError("malformed tar layer: its members overlap, or are too many")
        last = member.offset
        if not PurePosixPath(member.name).parts:
            continue  # "./", the directory itself
        path = RelativePath.parse(member.name).under(target)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.issparse():
            raise MalformedArtifactError("malformed tar layer: sparse files are not supported")
        elif member.isreg():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_member(tar, member, path)


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if path.exists():
        return
    source = tar.extractfile(member)
    if source is None:
        return
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
    if path.stat().st_size != member.size:
        raise MalformedArtifactError("malformed tar layer: it ends early")
    path.chmod(0o644 | (member.mode & 0o111))
