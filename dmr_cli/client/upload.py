"""Sending a model that was built here to the service, as the tar stream that `/models/load` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from dmr_cli.client.api import Api, expect
from dmr_cli.client.errors import ClientError
from dmr_cli.client.progress import follow
from dmr_cli.client.reporters import Reporter
from dmr_core.domain.archive import (
    ARCHIVE_END,
    MANIFEST_NAME,
    archive_directories,
    archive_header,
    archive_padding,
    blob_name,
)
from dmr_core.services.packaging import BuiltArtifact

__all__ = ["archive", "load"]

_PIECE: Final = 1024 * 1024

Sent = Callable[[str, int, int], None]


def load(api: Api, built: BuiltArtifact, reporter: Reporter) -> str:
    """Have the service take the model in, without a name; the service's closing message."""
    whole = sum(descriptor.size for descriptor, _ in built.files)

    def sent(name: str, current: int, total: int) -> None:
        reporter.layer(name, current, total, whole, "Uploading")

    headers = {"Content-Type": "application/x-tar"}
    with api.open("POST", "/models/load", body=archive(built, sent), headers=headers) as response:
        expect(response)
        return follow(response.lines(), reporter)


def archive(built: BuiltArtifact, sent: Sent) -> Iterator[bytes]:
    """The archive, piece by piece. ``sent`` is told the short name of a layer, bytes so far, and all its bytes.

    A layer that the manifest lists twice goes once.

    Raises:
        ClientError: a file is no longer as long as when it was hashed.
    """
    yield archive_directories()
    done: set[str] = set()
    for descriptor, path in built.files:
        name = blob_name(descriptor.digest)
        if name in done:
            continue
        done.add(name)
        label = descriptor.digest.hex[:12]
        yield archive_header(name, descriptor.size)
        left = descriptor.size
        with path.open("rb") as file:
            while left and (piece := file.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece
                sent(label, descriptor.size - left, descriptor.size)
        if left:
            raise ClientError(f"{str(path)!r} became shorter while it was packaged")
        yield archive_padding(descriptor.size)
    config = built.artifact.manifest.config
    yield from _small(blob_name(config.digest), built.artifact.config_bytes)
    yield from _small(MANIFEST_NAME, built.artifact.manifest_bytes)
    yield ARCHIVE_END


def _small(name: str, content: bytes) -> Iterator[bytes]:
    yield archive_header(name, len(content))
    yield content
    yield archive_padding(len(content))
