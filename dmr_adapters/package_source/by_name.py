"""Files under the names they have in a model.

Blobs of a store are called by their digests; what a header means may hang on a file's own name (shards)
and on the file beside it (``config.json``). So symbolic links stand in for them while headers are read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmr_core.errors import InvalidRequestError, MalformedArtifactError
from dmr_core.ports.package_source import SourceFile

__all__ = ["by_name"]


@contextmanager
def by_name(files: Sequence[SourceFile]) -> Iterator[list[Path]]:
    """Paths of ``files`` that end in their names; their own where those do already.

    Raises:
        InvalidRequestError: the links cannot be made.
        MalformedArtifactError: as the body does, without the paths made up here.
    """
    if all(file.path.parts[-len(file.name.text.split("/")) :] == tuple(file.name.text.split("/")) for file in files):
        yield [file.path for file in files]
        return
    try:
        directory = tempfile.TemporaryDirectory(prefix="dmr-headers-")
    except OSError as exc:
        raise InvalidRequestError(f"cannot read headers: no temporary directory can be made: {exc.strerror}") from exc
    with directory as name:
        root = Path(name)
        try:
            yield [_linked(file, root) for file in files]
        except MalformedArtifactError as exc:
            raise MalformedArtifactError(exc.message.replace(f"{root}/", "")) from exc


def _linked(file: SourceFile, root: Path) -> Path:
    path = file.name.under(root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(file.path)
    except OSError as exc:
        raise InvalidRequestError(f"cannot read the header of {file.name.text!r}: {exc.strerror}") from exc
    return path
