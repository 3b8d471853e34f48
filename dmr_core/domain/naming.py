"""How a stored tag is shown to people. Standard library only: the client imports it on every start."""

from __future__ import annotations

from typing import Final

__all__ = [
    "DEFAULT_ORGANIZATION",
    "DEFAULT_REGISTRY",
    "DEFAULT_TAG",
    "MAIN_REVISION",
    "REVISION_JOINT",
    "display_name",
    "tag_at",
]

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_ORGANIZATION: Final = "ai"
DEFAULT_TAG: Final = "latest"
MAIN_REVISION: Final = "main"
REVISION_JOINT: Final = "_at_"
"""Between tag and revision in the stored name of a model of a hub."""


def display_name(tag: str, default_registry: str = DEFAULT_REGISTRY) -> str:
    """Shorten ``docker.io/ai/gemma3:latest`` to ``gemma3``.

    What is left off is exactly what :func:`dmr_core.domain.reference.parse_reference` would add
    again, so the short form always names the same model.
    """
    name = tag
    prefixes = ("index.docker.io/", "docker.io/") if default_registry == DEFAULT_REGISTRY else (default_registry + "/",)
    for prefix in prefixes:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            first = rest.partition("/")[0]
            if "." in first or first == "localhost":  # would be read as a registry
                break
            short = rest.removeprefix(DEFAULT_ORGANIZATION + "/")
            name = short if "/" not in short else rest
            break
    return name.removesuffix(":" + DEFAULT_TAG)


def tag_at(tag: str, revision: str) -> str:
    """The tag under which a revision of a hub is stored: ``Q4_K_M_at_refs__pr__1``; that of ``main`` is no other."""
    return tag if revision == MAIN_REVISION else f"{tag}{REVISION_JOINT}{revision.replace('/', '__')}"
