"""Names of models on the Hugging Face Hub: ``hf.co/Org/Repo[:QUANTIZATION][@REVISION]``.

A stored name has to be one that every OCI tool can read, and a tag is the only place for a revision in
it: ``hf.co/Org/Repo:Q4_K_M@v1.0`` is stored as ``huggingface.co/org/repo:Q4_K_M_at_v1.0`` and
``hf.co/Org/Repo@refs/pr/1`` as ``…:latest_at_refs__pr__1``. Both forms name the same model, whichever is
typed. The revision ``main`` is what a name without one means, so it is left out.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from dmr_core.domain.naming import DEFAULT_TAG, MAIN_REVISION, REVISION_JOINT, tag_at
from dmr_core.errors import InvalidReferenceError

__all__ = ["HubReference", "is_hub_name", "revision_tag", "without_scheme"]

_HOSTS: Final = ("hf.co/", "huggingface.co/")
_SCHEME: Final = "https://"
_SLASH: Final = "__"
_MAX_TAG: Final = 128
_REVISION: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]*[A-Za-z0-9_.-])?")
# huggingface_hub `validate_repo_id`: letters, digits and "-_.", 96 at most.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_ANY: Final = frozenset({"", DEFAULT_TAG, MAIN_REVISION})


@attrs.frozen(kw_only=True)
class HubReference:
    """A repository, spelled as it was typed, what of it is wanted, and which state of it.

    ``selector`` is ``""`` where the tag names nothing in particular.
    """

    repository: str
    selector: str = ""
    revision: str = MAIN_REVISION

    @classmethod
    def of(cls, repository: str, tag: str) -> HubReference:
        """Read the two parts of a reference.

        Raises:
            InvalidReferenceError: the Hub has no repositories of such a name.
        """
        names = repository.split("/")
        if len(names) > 2 or not all(_is_name(name) for name in names):
            raise InvalidReferenceError(
                f"hf.co/{repository}", "a model of Hugging Face is named hf.co/ORG/REPO[:QUANTIZATION][@REVISION]"
            )
        selector, revision = _split(tag)
        return cls(
            repository=repository,
            selector="" if selector.lower() in _ANY else selector,
            revision=revision or MAIN_REVISION,
        )

    def __str__(self) -> str:
        selector = f":{self.selector}" if self.selector else ""
        revision = f"@{self.revision}" if self.revision != MAIN_REVISION else ""
        return f"hf.co/{self.repository}{selector}{revision}"


def is_hub_name(text: str) -> bool:
    """Whether a reference is one of Hugging Face's; a host name has no case."""
    return text.lower().startswith(_HOSTS)


def without_scheme(text: str) -> str:
    """``text`` as a reference where it is a Hub address copied from a browser; else as it is."""
    bare = text[len(_SCHEME) :]
    return bare.rstrip("/") if text.lower().startswith(_SCHEME) and is_hub_name(bare) else text


def revision_tag(text: str, tag: str, revision: str) -> str:
    """The tag under which ``revision`` is stored; ``text`` is the whole reference, for messages.

    Raises:
        InvalidReferenceError: the revision cannot be part of a name.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise InvalidReferenceError(
            text, f"{revision!r} is no revision: write hf.co/ORG/REPO[:QUANTIZATION]@BRANCH, a tag or a commit"
        )
    joined = tag_at(tag, revision)
    if _split(joined) != (tag, "" if joined == tag else revision):
        raise InvalidReferenceError(
            text, f"{revision!r} cannot be told again from a stored name: give the commit instead"
        )
    if len(joined) > _MAX_TAG:
        raise InvalidReferenceError(text, "the revision is too long for a stored name: give the commit instead")
    return joined


def _split(tag: str) -> tuple[str, str]:
    """What a tag selects, and the revision in it, ``""`` where it has none."""
    selector, _, revision = tag.partition(REVISION_JOINT)
    return (selector, revision.replace(_SLASH, "/")) if revision else (tag, "")


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and ".." not in name and not name.endswith(".")
