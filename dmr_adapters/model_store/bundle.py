"""Making bundles: built aside, then renamed into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from dmr_adapters.model_store.archive import unpack
from dmr_adapters.model_store.bundle_plan import BundlePlan, PlannedFile
from dmr_adapters.model_store.durability import disk_conditions, make_directories, publish, sync_tree
from dmr_adapters.model_store.layout import StoreLayout
from dmr_adapters.model_store.lock import is_current, try_flock
from dmr_adapters.model_store.snapshot import read_document
from dmr_adapters.oci_json import is_modelpack_config
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import go_json
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError, PreconditionError

__all__ = ["BundleDraft", "bundle_at", "discard_bundle", "is_whole"]

_MODEL: Final = "model"
_CONFIG: Final = "config.json"


def bundle_at(root: Path, plan: BundlePlan, model: Model) -> Bundle:
    """What a bundle laid out by ``plan`` at ``root`` tells an engine."""

    def place(path: RelativePath | None) -> Path | None:
        return path.under(root / _MODEL) if path is not None else None

    return Bundle(
        root=root,
        gguf=place(plan.gguf),
        safetensors=place(plan.safetensors),
        dduf=place(plan.dduf),
        mmproj=place(plan.mmproj),
        chat_template=place(plan.chat_template),
        loras=tuple(path.under(root / _MODEL) for path in plan.loras),
        context_size=model.config.context_size,
    )


def is_whole(root: Path, plan: BundlePlan) -> bool:
    """Whether the bundle at ``root`` was finished and still has every file the manifest asks for.

    The config is written last, by the reference runner too, so it vouches for what archives brought.
    """
    try:
        return (
            (root / _CONFIG).is_file()
            and all(file.path.under(root / _MODEL).stat().st_size == file.size for file in plan.files)
            and all(file.path.under(root / _MODEL).exists() for file in plan.extras)
        )
    except OSError:
        return False


def discard_bundle(layout: StoreLayout, model_id: Digest) -> None:
    """Remove a bundle in one step, so that nobody ever sees half of one. None there is fine."""
    target = layout.bundle(model_id)
    make_directories(layout.temporary)
    aside = Path(tempfile.mkdtemp(prefix=f"{model_id.short}.", dir=layout.temporary))
    try:
        with suppress(FileNotFoundError):
            target.rename(aside / "bundle")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class BundleDraft:
    """A bundle being made in a directory of its own, which is locked so that nobody sweeps it away."""

    def __init__(self, layout: StoreLayout, model: Model, plan: BundlePlan) -> None:
        self._layout = layout
        self._model = model
        self._plan = plan
        self._root: Path | None = None
        self._lock: int | None = None

    def build(self) -> None:
        """Lay everything out.

        Raises:
            MalformedArtifactError: the file system cannot hold these names, or a tar layer is bad.
            PreconditionError: a blob is missing.
            StorageFullError, StoreUnwritableError: the disk refused.
        """
        with disk_conditions(self._layout.root):
            root = self._start()
            directory = root / _MODEL
            directory.mkdir()
            for file in self._plan.files:
                self._place(file, directory)
            for layer in self._plan.archives:
                blob = self._layout.blob(layer.digest)
                if not blob.exists():
                    raise self._missing(layer.digest)
                unpack(blob, directory)
            for file in self._plan.extras:
                if not file.path.under(directory).exists():
                    self._place(file, directory)
            (root / _CONFIG).write_bytes(self._config())
            # A bundle is believed once it is in place: what was copied or unpacked has to be there after a power failure.
            sync_tree(root)

    def publish(self) -> None:
        """Rename it into place, unless another process has made one meanwhile. The store's lock is held."""
        target = self._layout.bundle(self._model.id)
        if self._root is None or is_whole(target, self._plan):
            return
        with disk_conditions(self._layout.root):
            discard_bundle(self._layout, self._model.id)
            publish(self._root, target)
        self._root = None

    def close(self) -> None:
        """Throw away what was not published."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _start(self) -> Path:
        make_directories(self._layout.temporary)
        while True:
            root = Path(tempfile.mkdtemp(prefix=f"{self._model.id.short}.", dir=self._layout.temporary))
            self._root = root
            self._lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # A sweep may have come between the two lines above.
            if try_flock(self._lock) and is_current(self._lock, root):
                root.chmod(0o755)
                return root
            os.close(self._lock)
            self._lock = None

    def _place(self, file: PlannedFile, directory: Path) -> None:
        target = file.path.under(directory)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._link(file, target)
        except (FileExistsError, NotADirectoryError) as exc:
            # The plan has no clashes, so the file system takes two of its names for one.
            raise MalformedArtifactError(f"filepath collision: {file.path.text!r} is taken already") from exc

    def _link(self, file: PlannedFile, target: Path) -> None:
        """Hard link; where the disk or the owner does not allow that, a symbolic link; else a copy."""
        blob = self._layout.blob(file.digest)
        if not blob.exists():
            raise self._missing(file.digest)
        try:
            os.link(blob, target)
        except FileExistsError:
            raise
        except OSError:
            final = file.path.under(self._layout.bundle(self._model.id) / _MODEL)
            try:
                # Relative to where it will be, so that the store can be moved or mounted elsewhere.
                target.symlink_to(os.path.relpath(blob, final.parent))
            except OSError:
                shutil.copyfile(blob, target)

    def _config(self) -> bytes:
        """The runtime config: Docker's inner object, or the whole of a ModelPack config."""
        digest = self._model.manifest.config.digest
        try:
            document = orjson.loads(read_document(self._layout.blob(digest)))
        except FileNotFoundError as exc:
            raise self._missing(digest) from exc
        inner = document if is_modelpack_config(document) else document.get("config") or {}
        return go_json(inner).encode() + b"\n"

    def _missing(self, digest: Digest) -> PreconditionError:
        return PreconditionError(
            f"model {self._model.name!r} cannot be used: its blob {digest} is missing from the store; pull it again"
        )
