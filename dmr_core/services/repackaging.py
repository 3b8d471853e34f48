"""Making a variant of a stored model: other settings or a few more files, over the same layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dmr_core.domain.artifact import Artifact, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.model import Model
from dmr_core.domain.repackage import Changes, repackage
from dmr_core.errors import MalformedArtifactError, ModelNotFoundError
from dmr_core.ports.model_store import ModelStore
from dmr_core.services.catalog import CatalogService

__all__ = ["RepackagingService", "revise"]

_MAX_CONFIG: Final = 8 * 1024 * 1024

DecodeManifest = Callable[[bytes], Manifest]
DecodeConfig = Callable[[bytes], ModelConfig]


def revise(
    manifest_bytes: bytes,
    config_bytes: bytes,
    changes: Changes,
    *,
    decode_manifest: DecodeManifest,
    decode_config: DecodeConfig,
) -> Artifact:
    """The artifact these documents make once ``changes`` are made; what they do not touch stays as it is.

    Raises:
        InvalidRequestError: the changes cannot be made to this model.
        MalformedArtifactError: the documents, which may be a stranger's, are no model's.
    """
    decode_manifest(manifest_bytes)
    decode_config(config_bytes)
    manifest_bytes, config_bytes = repackage(manifest_bytes, config_bytes, changes)
    return Artifact(
        manifest=decode_manifest(manifest_bytes),
        manifest_bytes=manifest_bytes,
        config=decode_config(config_bytes),
        config_bytes=config_bytes,
    )


class RepackagingService:
    """Repackages models in a store. No layer is copied: variants share their blobs."""

    def __init__(
        self,
        *,
        store: ModelStore,
        catalog: CatalogService,
        decode_manifest: DecodeManifest,
        decode_config: DecodeConfig,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._decode_manifest = decode_manifest
        self._decode_config = decode_config

    async def documents(self, name: str) -> tuple[bytes, bytes]:
        """The bytes of the manifest and the config of the model ``name``.

        Raises:
            ModelNotFoundError, InvalidReferenceError: nothing answers to it.
        """
        model = await self._catalog.find_stored(name)
        manifest = await self._store.read_manifest(model.id)
        if manifest is None:
            raise ModelNotFoundError(name)  # it is being removed
        return manifest, await self._read(model.manifest.config.digest)

    async def repackage(self, name: str, target: str, changes: Changes) -> Model:
        """Store a variant of the model ``name`` and call it ``target``; the model itself stays as it is.

        Raises:
            ModelNotFoundError: nothing answers to ``name``.
            InvalidReferenceError: ``target`` can be no name.
            InvalidRequestError: the changes cannot be made to this model.
            StorageFullError, StoreUnwritableError: the store cannot take it.
        """
        reference = self._catalog.check_tag(target)
        model = await self._catalog.find_stored(name)
        # The model may be removed meanwhile, and its layers with it.
        async with self._store.lease(blob.digest for blob in model.manifest.blobs):
            manifest, config = await self.documents(name)
            artifact = revise(
                manifest,
                config,
                changes,
                decode_manifest=self._decode_manifest,
                decode_config=self._decode_config,
            )
            async with self._store.lease((artifact.id,)):
                added = await self._store.add(artifact)
                return await self._store.tag(added.id, reference)

    def revised(self, artifact: Artifact, changes: Changes) -> Artifact:
        """An artifact that is not stored yet, with ``changes`` made. Raises as :func:`revise`."""
        return revise(
            artifact.manifest_bytes,
            artifact.config_bytes,
            changes,
            decode_manifest=self._decode_manifest,
            decode_config=self._decode_config,
        )

    async def _read(self, digest: Digest) -> bytes:
        data = bytearray()
        async for chunk in self._store.read_blob(digest):
            data += chunk
            if len(data) > _MAX_CONFIG:
                raise MalformedArtifactError(f"the config {digest} is longer than {_MAX_CONFIG} bytes")
        return bytes(data)
