"""Reading the settings documents of an unpacked model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dmr_adapters.model_store.threads import finish_in_thread
from dmr_core.domain.admission import MAX_DOCUMENT, ModelFile, is_document
from dmr_core.errors import PreconditionError
from dmr_core.ports.model_files import ModelFiles

__all__ = ["FilesystemModelFiles"]

_MOST: Final = 20_000


class FilesystemModelFiles(ModelFiles):
    """Reads directories of the store."""

    async def read(self, directory: Path) -> tuple[ModelFile, ...]:
        return await finish_in_thread(lambda: _read(directory))


def _read(directory: Path) -> tuple[ModelFile, ...]:
    files: list[ModelFile] = []
    try:
        for root, _, names in os.walk(directory, onerror=_fail):
            for name in names:
                if len(files) == _MOST:
                    raise PreconditionError(f"the model in {str(directory)!r} has more than {_MOST} files")
                path = Path(root, name)
                relative = path.relative_to(directory).as_posix()
                files.append(ModelFile(path=relative, document=_document(path) if is_document(relative) else None))
    except OSError as exc:
        raise PreconditionError(f"cannot look through the model in {str(directory)!r}: {exc.strerror}") from exc
    return tuple(files)


def _fail(error: OSError) -> None:
    raise error


def _document(path: Path) -> bytes | None:
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT + 1)
    return data if len(data) <= MAX_DOCUMENT else None
