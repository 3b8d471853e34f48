"""What a hub says about a repository."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.paths import RelativePath

__all__ = ["HubFile", "HubRevision"]


@attrs.frozen(kw_only=True)
class HubRevision:
    """One state of a repository for all time. ``repository`` is spelled as the hub spells it.

    ``commit`` is 40 hexadecimal digits; ``modified`` knows its zone.
    """

    repository: str
    commit: str
    modified: datetime


@attrs.frozen(kw_only=True)
class HubFile:
    """A file of a repository; ``size`` in bytes.

    ``sha256`` is that of the content where the hub says it (large files, Git LFS). ``git_oid`` is the
    object's name in git, 40 hexadecimal digits: of a large file, of the pointer to it.
    """

    path: RelativePath
    size: int
    git_oid: str
    sha256: Digest | None = None

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.name

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories it lies in, outermost first; none for a file at the top."""
        return PurePosixPath(self.path.text).parts[:-1]

    @property
    def is_hidden(self) -> bool:
        """Whether its name, or that of a directory it lies in, begins with a dot."""
        return any(part.startswith(".") for part in PurePosixPath(self.path.text).parts)
