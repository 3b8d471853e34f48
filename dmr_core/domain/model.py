"""A model that is here, and the directory an engine reads it from."""

from __future__ import annotations

from pathlib import Path

import attrs

from dmr_core.domain.artifact import Format, Manifest, ModelConfig
from dmr_core.domain.digest import Digest

__all__ = ["Bundle", "Model"]


@attrs.frozen(kw_only=True)
class Model:
    """A model that is here. ``tags`` are canonical references in the order they were given.

    ``backend`` is empty for a model in the store. One that a backend keeps elsewhere has its name here: nobody else can
    serve it, and there are no files of it to unpack, export or push.
    """

    id: Digest
    tags: tuple[str, ...]
    manifest: Manifest
    config: ModelConfig
    manifest_size: int = 0
    backend: str = ""

    @property
    def format(self) -> Format | None:
        """Format of the weights: what the config says, else what the layers are."""
        return Format.of(self.config.format) or self.manifest.weights_format()

    @property
    def size(self) -> int:
        """Bytes of everything the model consists of."""
        return self.manifest_size + sum(blob.size for blob in self.manifest.blobs)

    @property
    def name(self) -> str:
        """The first tag, or the ID of an untagged model."""
        return self.tags[0] if self.tags else str(self.id)


@attrs.frozen(kw_only=True)
class Bundle:
    """The unpacked runtime view of a model. Paths are absolute and exist; ``None`` where there is none.

    ``gguf`` and ``safetensors`` are the first shard; ``loras`` are adapters, in the order of their layers.
    """

    root: Path
    gguf: Path | None = None
    safetensors: Path | None = None
    dduf: Path | None = None
    mmproj: Path | None = None
    chat_template: Path | None = None
    loras: tuple[Path, ...] = ()
    context_size: int | None = None

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.root / "model"
