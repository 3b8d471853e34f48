"""Answers of hubs: documents of bounded length from one place, read item by item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec
from yarl import URL

from dmr_adapters.registry.client import HttpClient, read_bounded
from dmr_core.errors import RegistryError

__all__ = ["DOCUMENT_LIMIT", "count", "each", "fetch"]

DOCUMENT_LIMIT: Final = 16 * 1024 * 1024
_MAX_COUNT: Final = 2**63 - 1
_T = TypeVar("_T")


async def fetch(client: HttpClient, url: URL, kind: type[_T], source: str) -> _T:
    """The document at ``url``, as ``kind``. Follows no redirect and sends no credential.

    Raises:
        RegistryUnreachableError: no answer, or it broke.
        RegistryError: another answer than such a document; ``source`` names the hub in the message.
    """
    answer = await client.send("GET", url, headers={"Accept": "application/json"})
    try:
        if answer.status == 429:
            raise RegistryError(f"rate limited by {source}, please try again later")
        if answer.status != 200:
            raise RegistryError(f"unexpected status from {source}: {answer.status}")
        content = await read_bounded(answer, DOCUMENT_LIMIT, client.timeouts.document)
    finally:
        if answer.content.at_eof():
            answer.release()
        else:
            answer.close()
    if content is None:
        raise RegistryError(f"{source} answered with more than {DOCUMENT_LIMIT} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RegistryError(f"{source} answered with something that is not what was asked for: {exc}") from exc


def each(items: Iterable[msgspec.Raw], kind: type[_T]) -> Iterator[_T]:
    """The items that are what they should be; one that is not costs itself alone."""
    for item in items:
        try:
            yield msgspec.json.decode(item, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue


def count(number: int | None) -> int:
    """A number of downloads, stars or bytes that can be one."""
    return min(max(number or 0, 0), _MAX_COUNT)
