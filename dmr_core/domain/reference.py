"""Model references: ``[registry/]repository[:tag][@digest]``, as a type with one parser.

Grammar: OCI distribution-spec "Pulling manifests" (repository and tag expressions) with the model
runner's defaults: registry ``docker.io``, organisation ``ai``, tag ``latest``. Where the reference
runner's two-stage parser lost information this one keeps it: a digest beside a tag is honoured, a
tag keeps its case, and ``localhost`` stays a registry whatever the default registry is.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_reference import is_hub_name, revision_tag, without_scheme
from dmr_core.domain.naming import DEFAULT_ORGANIZATION, DEFAULT_REGISTRY, DEFAULT_TAG, display_name
from dmr_core.errors import InvalidReferenceError, InvalidRequestError

__all__ = ["HUGGING_FACE", "ModelId", "Reference", "ReferencePolicy", "parse_model_id", "parse_reference"]

HUGGING_FACE: Final = "huggingface.co"
_ALIASES: Final = {"index.docker.io": DEFAULT_REGISTRY, "hf.co": HUGGING_FACE}

_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
# A Hub name may end in a hyphen or mix separators; OCI's grammar would refuse it.
_HUB_COMPONENT: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*)")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DOMAIN_LABEL: Final = r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])"
_REGISTRY: Final = re.compile(rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[0-9a-f:]+\])(?::[0-9]{{1,5}})?")
_HEX_64: Final = re.compile(r"[0-9a-f]{64}")
_HEX_12: Final = re.compile(r"[0-9a-f]{12}")
_MAX_PORT: Final = 65535
_MAX_REPOSITORY: Final = 255
_MAX_TEXT: Final = 1024


@attrs.frozen(kw_only=True)
class ReferencePolicy:
    """What a reference means where it does not say: the service's defaults."""

    default_registry: str = DEFAULT_REGISTRY
    default_organization: str = DEFAULT_ORGANIZATION


@attrs.frozen(repr=False)
class Reference:
    """A fully qualified reference. ``tag`` is never empty; ``digest`` wins over it where both are given.

    ``spelled`` is the repository as it was typed, for hubs that tell cases apart; it does not count in comparisons.
    """

    registry: str
    repository: str
    tag: str = DEFAULT_TAG
    digest: Digest | None = None
    spelled: str = attrs.field(default="", eq=False)

    @property
    def name(self) -> str:
        """Registry and repository, ``docker.io/ai/gemma3``."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The form stored as a tag: ``docker.io/ai/gemma3:latest``; never carries the digest."""
        return f"{self.name}:{self.tag}"

    @property
    def remote(self) -> str:
        """What a registry is asked for: the digest where there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    def display(self, policy: ReferencePolicy) -> str:
        """The short form for people; parses back to this reference under the same policy."""
        return display_name(self.canonical, policy.default_registry)

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else self.canonical

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"


@attrs.frozen
class ModelId:
    """The text named a model by its ID: 12 digits (a prefix), or all 64."""

    prefix: str

    def matches(self, digest: Digest) -> bool:
        """Whether ``digest`` is the model meant."""
        return digest.hex.startswith(self.prefix)


def parse_model_id(text: str) -> ModelId | None:
    """Read ``text`` as a model ID: ``sha256:<64>``, 64 or 12 lower-case hex digits; else ``None``.

    Twelve digits may also be the name of a model, so a caller that finds no such ID goes on with
    :func:`parse_reference`. The other two forms can be nothing else.
    """
    bare = text.strip().removeprefix("sha256:")
    if _HEX_64.fullmatch(bare):
        return ModelId(bare)
    return ModelId(bare) if bare == text.strip() and _HEX_12.fullmatch(bare) else None


def parse_reference(text: str, policy: ReferencePolicy) -> Reference:
    """Parse what a person or a client typed.

    The name is lower-cased, the tag is not. ``hf.co`` means ``huggingface.co`` and
    ``index.docker.io`` means ``docker.io``, in any case. Of Hugging Face alone a revision may follow:
    ``hf.co/org/repo:Q4_K_M@v1.0``, which becomes part of the tag.

    Raises:
        InvalidReferenceError: says which part breaks which rule.
    """
    stripped = without_scheme(text.strip())
    if not stripped:
        raise InvalidReferenceError(text, "it is empty")
    if len(stripped) > _MAX_TEXT:
        raise InvalidReferenceError(stripped[:100] + "...", f"it is longer than {_MAX_TEXT} characters")
    remainder, revision = _split_revision(stripped)
    remainder, digest = _split_digest(remainder)
    name, tag = _split_tag(remainder, stripped)
    registry, repository = _split_registry(name.lower(), policy)
    _check_repository(repository, registry, stripped)
    if revision is not None:
        tag = revision_tag(stripped, tag, revision)
    spelled = name[-len(repository) :] if name.lower().endswith(repository) else repository
    return Reference(registry, repository, tag, digest, spelled)


def _split_revision(text: str) -> tuple[str, str | None]:
    """What follows ``@`` in the name of a model of Hugging Face, unless it is a digest."""
    name, at, revision = text.partition("@")
    return (name, revision) if at and is_hub_name(name) and not revision.startswith("sha256:") else (text, None)


def _split_digest(text: str) -> tuple[str, Digest | None]:
    name, at, digest_text = text.partition("@")
    if not at:
        return text, None
    try:
        return name, Digest.parse(digest_text)
    except InvalidRequestError as exc:
        raise InvalidReferenceError(text, exc.message) from exc


def _split_tag(name: str, text: str) -> tuple[str, str]:
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, DEFAULT_TAG
    if tag and not _TAG.fullmatch(tag):
        raise InvalidReferenceError(
            text, f"tag {tag!r} may hold letters, digits, '_', '.' and '-', 128 at most, and not start with '.' or '-'"
        )
    return head, tag or DEFAULT_TAG


def _split_registry(name: str, policy: ReferencePolicy) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    explicit = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    registry = _ALIASES.get(first, first) if explicit else policy.default_registry
    repository = rest if explicit else name
    hub_like = registry in (DEFAULT_REGISTRY, policy.default_registry)
    if "/" not in repository and (not explicit or hub_like):
        repository = f"{policy.default_organization}/{repository}"
    return registry, repository


def _check_repository(repository: str, registry: str, text: str) -> None:
    if not _REGISTRY.fullmatch(registry):
        raise InvalidReferenceError(text, f"{registry!r} is not a host name with an optional port")
    port = registry.rpartition("]")[2].partition(":")[2]
    if port and not 0 < int(port) <= _MAX_PORT:
        raise InvalidReferenceError(text, f"{port} is no port: they are 1 to {_MAX_PORT}")
    if len(repository) > _MAX_REPOSITORY:
        raise InvalidReferenceError(text, f"the repository is longer than {_MAX_REPOSITORY} characters")
    if _HEX_64.fullmatch(repository.rpartition("/")[2]) and repository.count("/") <= 1:
        raise InvalidReferenceError(text, "64 hexadecimal digits are a model ID, not a name")
    pattern = _HUB_COMPONENT if registry == HUGGING_FACE else _COMPONENT
    for component in repository.split("/"):
        if not pattern.fullmatch(component):
            raise InvalidReferenceError(
                text, f"{component!r} is not a name: use lower-case letters and digits, separated by '.', '_' or '-'"
            )
