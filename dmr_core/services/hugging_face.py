"""Models of the Hugging Face Hub, made into artifacts while they are pulled.

Large files go straight into the store under the digest the hub names: no second copy, and what an
earlier attempt received is gone on with. Small ones have no such digest; they are verified against their
names in git.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Final

import attrs

from dmr_core.domain.artifact import Descriptor, Format, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_reference import HubReference
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.domain.hub_selection import (
    SelectedFile,
    Selection,
    choose_format,
    safetensors_index,
    select_gguf,
    select_safetensors,
    shards_listed,
)
from dmr_core.domain.paths import RelativePath
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import HUGGING_FACE, Reference
from dmr_core.errors import (
    DigestMismatchError,
    InvalidReferenceError,
    InvalidRequestError,
    MalformedArtifactError,
    RegistryUnreachableError,
)
from dmr_core.ports.clock import Clock
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.package_source import PackageSource, SourceFile, WeightsMetadata
from dmr_core.ports.registry import BlobReader, Credentials
from dmr_core.services.fetching import FetchingService
from dmr_core.services.hub_artifact import build_artifact, is_from, layer_of, repository_of
from dmr_core.services.transfer import ProgressMeter, at_most

__all__ = ["HuggingFaceSource"]

_MIB: Final = 1024 * 1024
_LARGEST_SMALL: Final = 16 * _MIB
_ALL_SMALL: Final = 128 * _MIB
_SMALL_AT_ONCE: Final = 4
_LARGE_AT_ONCE: Final = 8  # the gate of the host decides how many of them receive
_SMALL_WITHIN: Final = 300.0  # seconds for a whole one, however slowly it comes
_PAUSES: Final = (0.5, 1.0, 2.0)  # seconds before another try where the connection broke
_CONFIG: Final = RelativePath("config.json")


class HuggingFaceSource(ModelSource):
    """Answers for ``huggingface.co/…``."""

    def __init__(
        self,
        *,
        store: ModelStore,
        hub: ModelHub,
        files: PackageSource,
        fetching: FetchingService,
        clock: Clock,
    ) -> None:
        self._store = store
        self._hub = hub
        self._files = files
        self._fetching = fetching
        self._clock = clock

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return reference.registry == HUGGING_FACE

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncGenerator[Progress, None]:
        """See :class:`ModelSource`.

        A model that is here is looked up again: it is only used where the hub has nothing newer.

        Raises (on iteration):
            RemoteModelNotFoundError: no such repository, revision or quantization.
            UnauthorizedError: its terms have to be accepted first, or a token is missing or refused.
            UnsupportedFormatError, MalformedArtifactError, DigestMismatchError: what is there.
            RegistryError: the hub's answers.
            StorageFullError, StoreUnwritableError: the store's.
        """
        if reference.digest is not None:
            raise InvalidReferenceError(
                str(reference), "models of Hugging Face are pinned by a commit, hf.co/ORG/REPO@COMMIT, not by a digest"
            )
        stored = self._store.by_tag(reference.canonical)
        wanted = self._wanted(reference, repository_of(stored) if stored else None)
        revision = await self._hub.revision(wanted.repository, wanted.revision, credentials)
        yield _line("Fetching file list...")
        pull = _Pull(hub=self._hub, revision=revision, credentials=credentials, clock=self._clock)
        selection = await self._select(pull, wanted)
        if stored is not None and is_from(stored, revision, selection):
            await self._store.tag(stored.id, reference)
            size = stored.config.size or f"{selection.size / _MIB:.2f} MB"
            yield _line(f"Using cached model: {size}", ProgressKind.SUCCESS)
            return
        for note in selection.notes:
            yield _line(note)
        yield _line(f"Found {len(selection.files)} files ({selection.size / _MIB:.2f} MB total)", total=selection.size)
        async with aclosing(self._bring_in(pull, selection, reference)) as lines:
            async for line in lines:
                yield line
        yield _line("Model pulled successfully", ProgressKind.SUCCESS)

    def _wanted(self, reference: Reference, known_as: str | None) -> HubReference:
        """What is asked for, spelled as the hub spells it where that is known: it tells cases apart, names here do not."""
        spelled = reference.spelled or reference.repository
        if spelled == reference.repository and known_as and known_as.lower() == reference.repository:
            spelled = known_as
        return HubReference.of(spelled, reference.tag)

    async def _select(self, pull: _Pull, wanted: HubReference) -> Selection:
        """In threads: what a hub lists may be long."""
        files = await self._hub.files(pull.revision, pull.credentials)
        if await asyncio.to_thread(choose_format, files, wanted) is Format.GGUF:
            return await asyncio.to_thread(select_gguf, files, wanted)
        index = safetensors_index(files)
        listed = await asyncio.to_thread(shards_listed, await pull.read(index)) if index is not None else None
        return await asyncio.to_thread(select_safetensors, files, wanted, listed)

    async def _bring_in(
        self, pull: _Pull, selection: Selection, reference: Reference
    ) -> AsyncGenerator[Progress, None]:
        large = [selected for selected in selection.files if selected.file.sha256 is not None]
        small = [selected.file for selected in selection.files if selected.file.sha256 is None]
        # The small ones first: there an account without access is refused, and then no large one is begun.
        contents = await _read_all(pull, small)
        digests = {selected.file.path: selected.file.sha256 for selected in large if selected.file.sha256 is not None}
        digests |= {path: Digest.of(content) for path, content in contents.items()}
        layers = [layer_of(selected, digests[selected.file.path], pull.revision) for selected in selection.files]
        async with self._store.lease(set(digests.values())):
            await self._store.require_space({layer.digest: layer for layer in layers}.values())
            meter = ProgressMeter(TransferMode.PULL, "Downloaded", self._clock)
            meter.total = selection.size
            for path, content in contents.items():
                await self._keep(content, digests[path])
                meter.advance(LayerProgress(digests[path], len(content), len(content)))
            once = {digests[selected.file.path]: selected for selected in large}
            fetches = [partial(self._fetch, pull, selected, digest, meter) for digest, selected in once.items()]
            async with aclosing(meter.follow(asyncio.ensure_future(at_most(_LARGE_AT_ONCE, fetches)))) as lines:
                async for line in lines:
                    yield line
            yield _line("Building model artifact...")
            metadata, problem = await self._metadata(selection, digests)
            if problem:
                yield _line(problem, ProgressKind.WARNING)
            model = await self._store.add(build_artifact(pull.revision, selection, digests, metadata))
            await self._store.tag(model.id, reference)

    async def _fetch(self, pull: _Pull, selected: SelectedFile, digest: Digest, meter: ProgressMeter) -> None:
        size = selected.file.size

        def open_file(offset: int, end: int | None) -> AbstractAsyncContextManager[BlobReader]:
            return pull.hub.open_file(pull.revision, selected.file, offset, end, pull.credentials)

        await self._fetching.fetch(
            layer_of(selected, digest, pull.revision),
            open_file,
            host=pull.hub.host,
            advance=lambda done: meter.advance(LayerProgress(digest, size, done)),
        )

    async def _keep(self, content: bytes, digest: Digest) -> None:
        descriptor = Descriptor(media_type=LayerType.MODEL_FILE.value, digest=digest, size=len(content))
        async with self._store.write_blob(descriptor) as writer:
            if writer.missing:
                await writer.restart()
                await writer.write(content)
            await writer.commit()

    async def _metadata(
        self, selection: Selection, digests: Mapping[RelativePath, Digest]
    ) -> tuple[WeightsMetadata, str]:
        """What the weights say about themselves, and what to tell where they cannot be read.

        That is no reason to refuse: the bytes are those the hub has, and engines may know more than we do.
        """
        read = [*selection.weights, *(file for file in selection.files if file.name == _CONFIG)]
        files = [self._source_file(selected, digests[selected.file.path]) for selected in read]
        try:
            return await self._files.metadata(files, selection.format), ""
        except InvalidRequestError as exc:  # malformed, or not to be read
            return WeightsMetadata(), f"{exc.message}; what the model says about itself is not known"

    def _source_file(self, selected: SelectedFile, digest: Digest) -> SourceFile:
        return SourceFile(
            path=self._store.blob_file(digest),
            name=selected.name,
            digest=digest,
            size=selected.file.size,
            mode=0o644,
            mtime_ns=0,
        )


@attrs.frozen(kw_only=True, eq=False)
class _Pull:
    """One commit of one repository, read with one set of credentials."""

    hub: ModelHub
    revision: HubRevision
    credentials: Credentials | None
    clock: Clock
    _contents: dict[RelativePath, bytes] = attrs.field(factory=dict, init=False)

    async def read(self, file: HubFile) -> bytes:
        """The whole of a small file, verified; kept for whoever asks again.

        Raises:
            MalformedArtifactError: it is not small.
            DigestMismatchError: its bytes are not those the hub lists.
        """
        if file.path not in self._contents:
            self._contents[file.path] = await self._receive(file)
        return self._contents[file.path]

    async def _receive(self, file: HubFile) -> bytes:
        if file.size > _LARGEST_SMALL:
            raise MalformedArtifactError(
                f"{file.path.text!r} of {self.revision.repository!r} has {file.size} bytes, {_LARGEST_SMALL} are allowed"
            )
        pauses = iter(_PAUSES)
        while True:
            try:
                async with asyncio.timeout(_SMALL_WITHIN):
                    content = await self._once(file)
                break
            except (RegistryUnreachableError, TimeoutError) as exc:
                pause = next(pauses, None)
                if pause is None:
                    reason = str(exc) or f"it takes longer than {_SMALL_WITHIN:g} s"
                    raise RegistryUnreachableError(
                        f"{file.path.text!r} of {self.revision.repository!r}: {reason}"
                    ) from exc
                await self.clock.sleep(pause)
        _verify(file, content)
        return content

    async def _once(self, file: HubFile) -> bytes:
        content = bytearray()
        async with self.hub.open_file(self.revision, file, credentials=self.credentials) as reader:
            async for chunk in reader.chunks:
                content += chunk
                if len(content) > file.size:
                    break
        return bytes(content)


async def _read_all(pull: _Pull, files: Sequence[HubFile]) -> dict[RelativePath, bytes]:
    total = sum(file.size for file in files)
    if total > _ALL_SMALL:
        raise MalformedArtifactError(
            f"{pull.revision.repository!r} has {total} bytes of small files, {_ALL_SMALL} are allowed"
        )
    contents: dict[RelativePath, bytes] = {}

    async def read(file: HubFile) -> None:
        contents[file.path] = await pull.read(file)

    await at_most(_SMALL_AT_ONCE, [partial(read, file) for file in files])
    return contents


def _verify(file: HubFile, content: bytes) -> None:
    """Compare with the digest of the content, or with its name as an object of git (SHA-1 of a header and the content)."""
    if file.sha256 is not None:
        if (actual := Digest.of(content)) != file.sha256:
            raise DigestMismatchError(str(file.sha256), str(actual))
        return
    name = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if name != file.git_oid:
        raise DigestMismatchError(f"git:{file.git_oid}", f"git:{name}")


def _line(message: str, kind: ProgressKind = ProgressKind.PROGRESS, *, total: int = 0) -> Progress:
    return Progress(kind=kind, message=message, mode=TransferMode.PULL, total=total)
