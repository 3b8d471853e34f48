"""Models where they come from: what a pull would bring, told without pulling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs

from dmr_core.domain.artifact import Descriptor, Format, ModelConfig, check_supported
from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_quantization import quantization_in
from dmr_core.domain.hub_reference import HubReference
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.domain.hub_selection import (
    Selection,
    choose_format,
    safetensors_index,
    select_gguf,
    select_safetensors,
    shards_listed,
)
from dmr_core.domain.reference import HUGGING_FACE, Reference, ReferencePolicy, parse_reference
from dmr_core.errors import InvalidReferenceError, MalformedArtifactError, RegistryUnreachableError
from dmr_core.ports.model_hub import ModelHub
from dmr_core.ports.registry import RegistrySession

__all__ = ["RemoteFile", "RemoteModel", "RemoteModelService"]

_LARGEST_INDEX: Final = 16 * 1024 * 1024
_INDEX_WITHIN: Final = 60.0  # seconds

OpenSession = Callable[[Reference], AbstractAsyncContextManager[RegistrySession]]


@attrs.frozen(kw_only=True)
class RemoteFile:
    """A file that a pull would fetch; ``size`` in bytes, ``path`` and ``digest`` where they are known."""

    size: int
    media_type: str
    path: str | None = None
    digest: Digest | None = None


@attrs.frozen(kw_only=True)
class RemoteModel:
    """A model as a registry or a hub describes it.

    A hub's becomes an artifact only while it is pulled, so it has no ``id``; its ``source`` pins it instead.
    ``download_size`` is what a store without any of it would fetch, in bytes.
    """

    source: str
    config: ModelConfig
    files: tuple[RemoteFile, ...]
    download_size: int
    created: int = 0
    id: Digest | None = None
    notes: tuple[str, ...] = ()


class RemoteModelService:
    """Describes models of registries (through ``open_session``) and of ``hub``. Stores nothing."""

    def __init__(self, *, open_session: OpenSession, hub: ModelHub, policy: ReferencePolicy) -> None:
        self._open_session = open_session
        self._hub = hub
        self._policy = policy

    async def describe(self, text: str) -> RemoteModel:
        """What pulling ``text`` would bring now.

        Raises:
            InvalidReferenceError: it is no reference.
            RemoteModelNotFoundError, UnauthorizedError, RegistryError: the answers of where it comes from.
            UnsupportedFormatError, MalformedArtifactError: what is there is no model.
        """
        reference = parse_reference(text, self._policy)
        if reference.registry == HUGGING_FACE:
            return await self._of_hub(reference)
        async with self._open_session(reference) as session:
            found = await session.manifest()
            check_supported(found.manifest)
            config, _ = await session.config(found.manifest.config)
        return RemoteModel(
            id=found.digest,
            source=str(attrs.evolve(reference, digest=found.digest)),
            config=config,
            created=config.created_unix,
            files=tuple(_file_of(layer) for layer in found.manifest.layers),
            download_size=len(found.content) + sum(blob.size for blob in found.manifest.blobs),
        )

    async def _of_hub(self, reference: Reference) -> RemoteModel:
        if reference.digest is not None:
            raise InvalidReferenceError(
                str(reference), "models of Hugging Face are pinned by a commit, hf.co/ORG/REPO@COMMIT, not by a digest"
            )
        wanted = HubReference.of(reference.spelled or reference.repository, reference.tag)
        revision = await self._hub.revision(wanted.repository, wanted.revision)
        files = await self._hub.files(revision)
        selection = await self._selected(revision, files, wanted)
        return RemoteModel(
            source=str(attrs.evolve(wanted, repository=revision.repository, revision=revision.commit)),
            config=ModelConfig(format=selection.format.value, quantization=_quantization(selection)),
            created=int(revision.modified.timestamp()),
            files=tuple(
                RemoteFile(
                    size=chosen.file.size,
                    media_type=chosen.media_type.value,
                    path=chosen.file.path.text,
                    digest=chosen.file.sha256,
                )
                for chosen in selection.files
            ),
            download_size=selection.size,
            notes=selection.notes,
        )

    async def _selected(self, revision: HubRevision, files: Sequence[HubFile], wanted: HubReference) -> Selection:
        if choose_format(files, wanted) is Format.GGUF:
            return select_gguf(files, wanted)
        index = safetensors_index(files)
        listed = None if index is None else shards_listed(await self._read(revision, index))
        return select_safetensors(files, wanted, listed)

    async def _read(self, revision: HubRevision, file: HubFile) -> bytes:
        """A small file. Nothing is kept of it, so its digest is left to the pull."""
        content = bytearray()
        try:
            async with asyncio.timeout(_INDEX_WITHIN), self._hub.open_file(revision, file) as reader:
                async for chunk in reader.chunks:
                    content += chunk
                    if len(content) > min(file.size, _LARGEST_INDEX):
                        raise MalformedArtifactError(f"{file.path.text!r} is longer than it may be")
        except TimeoutError as exc:
            raise RegistryUnreachableError(f"{file.path.text!r} takes longer than {_INDEX_WITHIN:g} s") from exc
        return bytes(content)


def _file_of(layer: Descriptor) -> RemoteFile:
    return RemoteFile(size=layer.size, media_type=layer.media_type, path=layer.filepath, digest=layer.digest)


def _quantization(selection: Selection) -> str:
    """As the name of the first file of weights tells it; nobody has read its header."""
    return quantization_in(selection.weights[0].file.path.text) if selection.format is Format.GGUF else ""
