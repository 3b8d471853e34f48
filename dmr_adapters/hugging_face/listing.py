"""Reading what the Hub says about a repository; nothing of it is taken as true.

Hub API, "GET /api/models/{repo}/revision/{revision}" and "GET /api/models/{repo}/tree/{revision}".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from yarl import URL

from dmr_adapters.hugging_face.client import PUBLIC
from dmr_adapters.registry.endpoint import origin
from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_repository import HubFile, HubRevision
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import DmrError, MalformedArtifactError, RegistryError

__all__ = ["next_page", "read_files", "read_revision"]

_OBJECT: Final = re.compile(r"[0-9a-f]{40}")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_NEXT: Final = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?', re.IGNORECASE)
_MAX_SIZE: Final = 1 << 50
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_revision(content: bytes, repository: str, host: str) -> HubRevision:
    """What a revision stands for.

    Raises:
        RegistryError: the document is not of the API.
    """
    document = _document(content, host)
    commit, name = document.get("sha") if isinstance(document, dict) else None, ""
    if not isinstance(commit, str) or not _OBJECT.fullmatch(commit):
        raise RegistryError(f"{host!r} names no commit of {repository!r}: is it a Hugging Face hub?")
    name = document.get("id") or document.get("modelId")
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name) or ".." in name:
        name = repository
    return HubRevision(repository=name, commit=commit, modified=_moment(document.get("lastModified")))


def read_files(content: bytes, host: str) -> Iterator[HubFile]:
    """The files of one page of a listing; directories and unsafe paths are left out.

    Raises:
        RegistryError: the document is not of the API.
    """
    document = _document(content, host)
    if not isinstance(document, list):
        raise RegistryError(f"{host!r} lists files in a way nobody knows")
    for entry in document:
        if isinstance(entry, dict) and entry.get("type") == "file":
            file = _file(entry, host)
            if file is not None:
                yield file


def next_page(header: str, base: URL, page: URL) -> URL | None:
    """Where the listing goes on (RFC 8288, relation ``next``), ``None`` at its end.

    A mirror may pass on the Hub's own links; they are taken to mean the mirror.

    Raises:
        RegistryError: it goes on at another host.
    """
    found = _NEXT.search(header)
    if found is None:
        return None
    try:
        url = page.join(URL(found[1], encoded=True))
        if origin(url) == origin(base):
            return url
        if origin(url) == origin(PUBLIC):
            return page.with_query(url.query)
    except ValueError:
        pass
    raise RegistryError(f"{base.host!r} continues its list of files at another host; refused")


def _document(content: bytes, host: str) -> Any:
    try:
        return orjson.loads(content)
    except ValueError as exc:
        raise RegistryError(f"{host!r} gave an answer that is no JSON: is it a Hugging Face hub?") from exc


def _file(entry: dict[str, Any], host: str) -> HubFile | None:
    path, large = entry.get("path"), entry.get("lfs")
    size = large.get("size") if isinstance(large, dict) else entry.get("size")
    oid = entry.get("oid")
    if (
        not isinstance(path, str)
        or type(size) is not int
        or not 0 <= size <= _MAX_SIZE
        or not isinstance(oid, str)
        or not _OBJECT.fullmatch(oid)
    ):
        raise RegistryError(f"{host!r} lists a file without a path, a size or an object name")
    try:
        parsed = RelativePath.parse(path)
    except MalformedArtifactError:
        return None
    if parsed.text != path:
        return None  # to the Hub this is another name than to us
    return HubFile(path=parsed, size=size, git_oid=oid, sha256=_sha256(large, path, host))


def _sha256(large: object, path: str, host: str) -> Digest | None:
    if not isinstance(large, dict):
        return None
    try:
        return Digest(str(large.get("oid") or large.get("sha256")).removeprefix("sha256:"))
    except DmrError as exc:
        raise RegistryError(f"{host!r} lists {path!r} without its digest") from exc


def _moment(text: object) -> datetime:
    """A time in UTC; what cannot be read is the beginning of time, which is the same for everybody."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else _BEGINNING
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return _BEGINNING
