"""Relative paths that cannot leave the directory they are joined to.

File names inside artifacts and archives are hostile input: every one passes through
:class:`RelativePath` before it touches a file system.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from dmr_core.errors import MalformedArtifactError

__all__ = ["RelativePath"]

_MAX_LENGTH: Final = 4096
_MAX_COMPONENT: Final = 255


@attrs.frozen(order=True, repr=False)
class RelativePath:
    """A normalised POSIX path below some root: never absolute, empty or ``.``, and free of ``..``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> RelativePath:
        """Parse and normalise ``text`` (``a//b/./c`` becomes ``a/b/c``).

        Any ``..`` is refused, even one that would stay inside, because what it means depends on
        symbolic links that may exist by then. Back-slashes and drive letters are refused too: they
        are separators on some systems.

        Raises:
            MalformedArtifactError: the path is empty, absolute, too long, or climbs.
        """
        reason = _objection(text)
        if reason:
            raise MalformedArtifactError(f"unsafe path {text[:200]!r}: {reason}")
        return cls(str(PurePosixPath(text)))

    @property
    def name(self) -> str:
        """The last component."""
        return PurePosixPath(self.text).name

    def under(self, root: Path) -> Path:
        """This path below ``root``."""
        return root.joinpath(*self.text.split("/"))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"RelativePath({self.text!r})"


def _objection(text: str) -> str:
    if not text or not text.strip():
        return "it is empty"
    if len(text) > _MAX_LENGTH:
        return f"it is longer than {_MAX_LENGTH} characters"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        return "it holds a control character"
    if "\\" in text:
        return "it holds a back-slash"
    if text.startswith("/") or (len(text) > 1 and text[1] == ":"):
        return "it is absolute"
    parts = PurePosixPath(text).parts
    if not parts:
        return "it names the directory itself"
    if ".." in parts:
        return "it climbs out of its directory"
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_COMPONENT for part in parts):
        return f"a component is longer than {_MAX_COMPONENT} bytes"
    return ""
