"""The bundled model as a source of models: ``dmr/demo`` comes from this package, never from a registry."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import attrs

from dmr_cli.server.lazy_source import DEMO_REPOSITORY
from dmr_core.domain.progress import Progress, ProgressKind, TransferMode
from dmr_core.domain.reference import Reference
from dmr_core.errors import RemoteModelNotFoundError
from dmr_core.ports.model_source import ModelSource
from dmr_core.ports.model_store import ModelStore
from dmr_core.ports.registry import Credentials
from dmr_core.services.packaging import ModelDirectory, PackageRequest, PackagingService, WeightsFile

__all__ = ["DemoModelSource"]

_CREATED: Final = datetime(2026, 11, 22, tzinfo=UTC)
_CHUNK: Final = 1024 * 1024


@attrs.frozen
class DemoModelSource(ModelSource):
    """``dmr/demo`` is the GGUF, ``dmr/demo:safetensors`` the same weights as safetensors."""

    store: ModelStore
    packaging: PackagingService
    registry: str

    def claims(self, reference: Reference) -> bool:
        """See :class:`ModelSource`."""
        return reference.registry == self.registry and reference.repository == DEMO_REPOSITORY

    async def pull(self, reference: Reference, credentials: Credentials | None) -> AsyncGenerator[Progress, None]:
        """See :class:`ModelSource`."""
        request = self._request(reference)
        built = await self.packaging.build(request)
        model = self.store.by_id(built.artifact.id)
        if model is None:
            # Two files of a directory may be the same blob; one writer is enough.
            files = {descriptor.digest: (descriptor, path) for descriptor, path in built.files}
            async with self.store.lease(files):
                for descriptor, path in files.values():
                    async with self.store.write_blob(descriptor) as writer:
                        with path.open("rb") as file:
                            file.seek(writer.offset)
                            while chunk := file.read(_CHUNK):
                                await writer.write(chunk)
                        await writer.commit()
                model = await self.store.add(built.artifact)
            message = "Model pulled successfully"
        else:
            message = f"Using cached model: {model.config.size}"
        await self.store.tag(model.id, reference)
        yield Progress(kind=ProgressKind.SUCCESS, message=message, mode=TransferMode.PULL)

    def _request(self, reference: Reference) -> PackageRequest:
        root = Path(str(resources.files("dmr_cli.demo"))) / "model"
        # A pinned date makes the bundled model one model on every machine.
        match reference.tag:
            case "latest" | "gguf":
                return PackageRequest(source=WeightsFile(path=root / "demo.gguf"), created=_CREATED, epoch=_CREATED)
            case "safetensors":
                directory = ModelDirectory(path=root / "safetensors")
                return PackageRequest(source=directory, created=_CREATED, epoch=_CREATED)
            case _:
                raise RemoteModelNotFoundError(str(reference), "the bundled model has the tags latest and safetensors")
