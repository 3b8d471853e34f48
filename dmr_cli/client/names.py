"""Model names as people type them against the fully qualified tags that the service stores."""

from __future__ import annotations

import os
from typing import Final

from dmr_core.domain.naming import DEFAULT_ORGANIZATION, DEFAULT_REGISTRY, DEFAULT_TAG, display_name, tag_at

__all__ = ["display", "matches", "short_id", "split_tag"]

_ALIASES: Final = {"index.docker.io": DEFAULT_REGISTRY, "hf.co": "huggingface.co"}
_HUB: Final = ("hf.co/", "huggingface.co/")
_HEX: Final = frozenset("0123456789abcdef")


def display(tag: str) -> str:
    """The short form of a stored tag."""
    return display_name(tag, _default_registry())


def short_id(model_id: object) -> str:
    """The 12 digits of a model's ID that people see."""
    return model_id.removeprefix("sha256:")[:12] if isinstance(model_id, str) else ""


def split_tag(name: str) -> tuple[str, str]:
    """Repository and tag, split at the last ``:`` that follows the last ``/``; no tag is ``""``."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


def matches(typed: str, model_id: str, tag: str) -> bool:
    """Whether ``typed`` names this model, or this tag of it (``""`` for a model without one).

    A name without a tag means every tag of that repository; an ID means the whole model.
    """
    name, _, digest = typed.strip().partition("@")
    if digest and not digest.startswith("sha256:") and name.lower().startswith(_HUB):
        repository, wanted = split_tag(name)
        name, digest = f"{repository}:{tag_at(wanted or DEFAULT_TAG, digest)}", ""
    bare_id = model_id.removeprefix("sha256:")
    if digest:
        return digest.removeprefix("sha256:") == bare_id and _qualified(name)[0] == _qualified(tag)[0]
    bare = name.removeprefix("sha256:")
    if len(bare) in (12, 64) and _HEX.issuperset(bare) and bare_id.startswith(bare):
        return True
    if not tag:
        return False
    repository, wanted = _qualified(name)
    stored, has = _qualified(tag)
    return repository == stored and wanted in ("", has or "latest")


def _qualified(name: str) -> tuple[str, str]:
    repository, tag = split_tag(name)
    repository = repository.lower()
    first, slash, rest = repository.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        registry, path = _ALIASES.get(first, first), rest
    else:
        registry, path = _default_registry(), repository
    if "/" not in path and registry in (DEFAULT_REGISTRY, _default_registry()):
        path = f"{DEFAULT_ORGANIZATION}/{path}"
    return f"{registry}/{path}", tag


def _default_registry() -> str:
    return os.environ.get("DEFAULT_REGISTRY") or DEFAULT_REGISTRY
