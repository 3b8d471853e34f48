"""Packaging for ``dmr package``: straight into the service's store where that is here, else through the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from dmr_cli.client.api import Api
from dmr_cli.client.errors import ClientError, InvalidInputError, NotFoundError
from dmr_cli.client.head_start import HeadStart
from dmr_cli.client.progress import reporter_for
from dmr_cli.client.reporters import Reporter
from dmr_cli.client.store_place import store_here
from dmr_cli.client.upload import load
from dmr_core.domain.repackage import Changes
from dmr_core.services.packaging import BuiltArtifact, ExtraFiles, PackageRequest, PackagingService

__all__ = ["Packing"]

_Build = Callable[[PackagingService, "_Hashed"], Awaitable[BuiltArtifact]]


class Packing:
    """Makes models in the store of one service. Methods return the ID of the model, which has no name yet."""

    def __init__(self, api: Api, *, quiet: bool, link: bool, ahead: HeadStart | None = None) -> None:
        self._api = api
        self._quiet = quiet
        self._link = link
        self._ahead = ahead

    def package(self, request: PackageRequest) -> str:
        """Make a model of files."""

        async def build(packaging: PackagingService, hashed: _Hashed) -> BuiltArtifact:
            return await packaging.build(request, hashed)

        return self._make(build)

    def derive(self, source: str, changes: Changes, extra: ExtraFiles) -> str:
        """Make a model of the model ``source``, with ``changes`` and the files of ``extra``.

        Raises:
            NotFoundError: there is no such model.
        """
        from dmr_cli.server.packaging import revised  # noqa: PLC0415 - adapters, which clients otherwise do without

        manifest, config = self._documents(source)

        async def build(packaging: PackagingService, hashed: _Hashed) -> BuiltArtifact:
            files = await packaging.extras(extra, hashed)
            layers = tuple(descriptor for descriptor, _ in files)
            artifact = revised(
                manifest, config, Changes(context_size=changes.context_size, schema=changes.schema, layers=layers)
            )
            return BuiltArtifact(artifact=artifact, files=files)

        return self._make(build)

    def _make(self, build: _Build) -> str:
        root = store_here(self._api)
        if root is None and self._link:
            raise InvalidInputError(
                f"--link needs the store of {self._api.endpoint.url} on this machine, and the right to write it:"
                " package without it"
            )
        return asyncio.run(self._send(build) if root is None else self._import(root, build))

    async def _import(self, root: Path, build: _Build) -> str:
        from dmr_cli.server.packaging import importing_packaging  # noqa: PLC0415 - adapters, see above

        ahead = self._ahead.digest if self._ahead is not None else None
        async with importing_packaging(root, link=self._link, ahead=ahead) as (packaging, importing):
            built = await self._built(build, packaging)
            await importing.publish()
            for path in importing.copied:
                click.echo(f"{str(path)!r} could not be linked into the store, so it was copied", err=True)
            # The blobs are there: the service needs the documents alone.
            return self._load(BuiltArtifact(artifact=built.artifact, files=()))

    async def _send(self, build: _Build) -> str:
        from dmr_cli.server.packaging import build_packaging  # noqa: PLC0415 - as above

        return self._load(await self._built(build, build_packaging()))

    async def _built(self, build: _Build, packaging: PackagingService) -> BuiltArtifact:
        with reporter_for(quiet=self._quiet) as reporter:
            return await build(packaging, _Hashed(reporter))

    def _load(self, built: BuiltArtifact) -> str:
        with reporter_for(quiet=self._quiet) as reporter:
            load(self._api, built, reporter)
        return str(built.artifact.id)

    def _documents(self, source: str) -> tuple[bytes, bytes]:
        try:
            answer = self._api.fetch_object("GET", "/dmr/v1/documents", query={"model": source})
        except NotFoundError as error:
            raise NotFoundError(f"no such model: {source}") from error
        manifest, config = answer.get("manifest"), answer.get("config")
        if not isinstance(manifest, str) or not isinstance(config, str):
            raise ClientError(f"{self._api.endpoint.url} did not say what {source!r} is made of")
        return manifest.encode(), config.encode()


class _Hashed:
    """Passes the progress of hashing on; files are hashed in several threads."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()

    def __call__(self, path: Path, done: int, total: int | None) -> None:
        size = path.stat().st_size if total is None else total
        with self._lock:
            self._reporter.layer(path.name, done, size, 0, "Reading")
