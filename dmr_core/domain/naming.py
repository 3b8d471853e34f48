"""How a stored tag is shown to people. Standard library only: the client imports it on every start."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_ORGANIZATION", "DEFAULT_REGISTRY", "DEFAULT_TAG", "display_name"]

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_ORGANIZATION: Final = "ai"
DEFAULT_TAG: Final = "latest"


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
