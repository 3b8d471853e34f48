"""References as the stock ``docker model`` CLI parses the targets of ``tag`` and ``package``.

distribution/reference with Docker's defaults: the first element is a registry where it is ``localhost``, holds a
``.`` or a ``:``, or an upper-case letter; the organisation of a bare name is ``ai``.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["InvalidTagError", "display", "parse_target"]

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)+(?::[0-9]+)?")
_HUB: Final = "docker.io"


class InvalidTagError(Exception):
    """The CLI refuses the target before it asks the service."""


def parse_target(text: str, default_registry: str) -> tuple[str, str]:
    """Fully qualified repository and tag of ``text``.

    Raises:
        InvalidTagError: it is no reference, or holds a digest.
    """
    if "@" in text:
        raise InvalidTagError(f'invalid tag: "{text}" must be a tag, not a digest')
    name, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        name, tag = text, "latest"
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        registry, path = ("docker.io" if first == "index.docker.io" else first), rest
    else:
        registry, path = default_registry or _HUB, name
    if "/" not in path and registry in (_HUB, default_registry):
        path = f"ai/{path}"
    if not (_REPOSITORY.fullmatch(path) and _TAG.fullmatch(tag) and _HOST.fullmatch(registry)) or len(path) > 255:
        raise InvalidTagError(f'invalid tag: invalid reference "{text}": invalid reference format')
    return f"{registry}/{path}", tag


def display(tag: str, default_registry: str) -> str:
    """The short form that tables show."""
    prefixes = ("index.docker.io/", "docker.io/")
    if default_registry not in ("", _HUB, "index.docker.io"):
        prefixes = (default_registry + "/",) * 2
    for prefix in prefixes:
        if tag.startswith(prefix):
            tag = tag.removeprefix(prefix)
            break
    return tag.removeprefix("ai/").removesuffix(":latest")
