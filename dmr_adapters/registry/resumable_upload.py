"""One blob on its way to a registry: in one piece, or in chunks that survive a broken line.

OCI distribution-spec v1.1, "Pushing a blob monolithically" (POST then PUT) and "Pushing a blob in chunks".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import aiohttp
import attrs

from dmr_adapters.registry import upload_place
from dmr_adapters.registry.repository import Repository
from dmr_adapters.registry.retry import RetryPolicy, retrying
from dmr_adapters.registry.upload_body import UploadBody
from dmr_adapters.registry.upload_place import UploadPlace, told_digest, told_offset
from dmr_core.domain.artifact import Descriptor
from dmr_core.domain.digest import Digest
from dmr_core.errors import DigestMismatchError, RegistryError, RegistryUnreachableError
from dmr_core.ports.registry import BlobSource

__all__ = ["ChunkSize", "ResumableUpload", "UploadPolicy", "check_stored", "has_blob"]

_LOG: Final = logging.getLogger(__name__)
_MIB: Final = 1024 * 1024
_HASHING_RATE: Final = 32 * _MIB  # bytes per second; a registry may read an upload again to verify it
_NOTICEABLE: Final = 64  # the share of a chunk that counts as progress is one in so many
_UNCHUNKED: Final = frozenset({400, 404, 405, 501})  # what registries say to a chunk that they do not take


@attrs.frozen(kw_only=True)
class UploadPolicy:
    """How blobs are sent. Sizes in bytes.

    A blob of more than ``chunk`` bytes goes in chunks of that size, of a quarter each time that the registry finds one
    too large (413), but not below ``smallest_chunk``. A blob is begun anew, or a chunk taken in part only, at most
    ``setbacks`` times; a blob sent in one piece is sent at most ``whole_attempts`` times, each may be many gigabytes.
    """

    chunk: int = 64 * _MIB
    smallest_chunk: int = _MIB
    setbacks: int = 5
    whole_attempts: int = 3


@attrs.define
class ChunkSize:
    """What a session learned: how large chunks may be; ``None`` once the registry has refused chunks."""

    bytes: int | None


async def has_blob(repository: Repository, descriptor: Descriptor, policy: RetryPolicy) -> bool:
    """Whether the repository has the blob ("Checking if content exists in the registry")."""

    async def ask() -> bool:
        url = repository.url("blobs", str(descriptor.digest))
        what = f"whether it has blob {descriptor.digest}"
        async with repository.ask("HEAD", url, what, accept=frozenset({200, 404})) as answer:
            return answer.status == 200

    return await retrying(repository.clock, policy, ask)


@attrs.define(kw_only=True, eq=False)
class ResumableUpload:
    """One blob on its way. ``certain`` is false while what the registry has is not known."""

    learned: ChunkSize
    repository: Repository
    policy: UploadPolicy
    retry: RetryPolicy
    descriptor: Descriptor
    source: BlobSource
    sent: Callable[[int], None]
    place: UploadPlace | None
    certain: bool = True
    closing: bool = False
    resumed: bool = False
    furthest: int = 0
    setbacks: int = 0
    done: bool = False

    async def run(self) -> None:
        """Step by step to the end; each step that succeeds may fail anew as often as the first.

        Whatever ends it before that, :attr:`place` is what is to be given back.
        """
        stalled_at = 0
        while not self.done:
            try:
                await retrying(self.repository.clock, self._patience(), self._step)
            except RegistryUnreachableError:
                # A stall, or a registry that was away for long: worth another try for what it has by now, if it got
                # further since the last one.
                if self._kept <= stalled_at:
                    raise
                stalled_at = self._kept
        self.place = None

    @property
    def _kept(self) -> int:
        """How many bytes the registry has for sure, where it can be gone on with them."""
        return self.place.offset if self.place is not None and self._chunk is not None else 0

    @property
    def _chunk(self) -> int | None:
        """How much to send next; ``None`` for everything at once."""
        chunk = self.learned.bytes
        return chunk if chunk is not None and self.descriptor.size > chunk else None

    def _patience(self) -> RetryPolicy:
        if self._chunk is not None:
            again = self.retry.attempts if self._kept else self.retry.refused_attempts
            return attrs.evolve(self.retry, refused_attempts=again)
        return attrs.evolve(self.retry, attempts=min(self.retry.attempts, self.policy.whole_attempts))

    async def _step(self) -> None:
        if not self.certain:
            before = self.place.offset if self.place else 0
            await self._recover()
            gained = (self.place.offset if self.place else 0) - before
            if self.done or gained >= max(1, (self._chunk or self.policy.chunk) // _NOTICEABLE):
                return  # it broke, but got further: what comes next may fail as often as the first
        place = self.place = self.place or await upload_place.begin(self.repository, self.descriptor)
        self.certain = False
        chunk = self._chunk
        if chunk is None and place.offset == 0:
            await self._close(place, 0)
        elif place.offset < self.descriptor.size:
            await self._patch(place, min(place.offset + max(chunk or 0, place.least), self.descriptor.size))
        else:
            await self._close(place, self.descriptor.size)

    async def _recover(self) -> None:
        """Find out what a failure left at the registry."""
        if self.closing and await has_blob(self.repository, self.descriptor, self.retry):
            self.done = True  # only the answer was lost
            return
        self.closing = False
        place, self.place = self.place, None
        if place is not None and self._chunk is not None:
            self.place = place  # also if asking fails
            found = await upload_place.status(self.repository, place)
            self.place = found if found is not None and found.offset <= self.furthest else None
            if self.place is None:
                self._set_back("forgets uploads")
            else:
                self.resumed = self.resumed or self.place.offset > 0
        self.certain = True

    def _set_back(self, what: str) -> None:
        self.setbacks += 1
        if self.setbacks > self.policy.setbacks:
            raise RegistryError(
                f"{self.repository.endpoint.registry!r} {what}: blob {self.descriptor.digest} was begun"
                f" {self.setbacks} times and is still not there"
            )

    def _body(self, start: int, end: int, within: float) -> UploadBody:
        limits = self.repository.client.timeouts
        return UploadBody(
            self.source, start, end, self.descriptor.size, self._advance, stall=limits.stall, answer_within=within
        )

    def _advance(self, position: int) -> None:
        self.furthest = max(self.furthest, position)
        self.sent(position)

    async def _patch(self, place: UploadPlace, end: int) -> None:
        """Send one chunk ("Pushing a blob in chunks")."""
        what = f"a chunk of blob {self.descriptor.digest}"
        within = self.repository.client.timeouts.head + (end - place.offset) / _HASHING_RATE
        body = self._body(place.offset, end, within)
        async with (
            body.watched(place.url),
            self.repository.ask(
                "PATCH",
                place.url,
                what,
                accept=frozenset({200, 201, 202, 204, 413, 416}) | _UNCHUNKED,
                headers={
                    "Content-Length": str(end - place.offset),
                    "Content-Range": f"{place.offset}-{end - 1}",
                    "Content-Type": "application/octet-stream",
                },
                body=body.open,
                answer_within=within,
            ) as answer,
        ):
            await self._judge(place, end, answer)

    async def _judge(self, place: UploadPlace, end: int, answer: aiohttp.ClientResponse) -> None:
        """Go on as the answer to a chunk says."""
        if answer.status == 413 and self._divides(place, end - place.offset):
            pass  # it will be asked what it has
        elif answer.status == 404 and place.offset > 0:
            self.place, self.certain = None, True
            self._set_back("forgets uploads")
        elif answer.status == 416 and place.offset > 0 and not self.resumed:
            self._set_back("counts the bytes of uploads differently")  # it will be asked what it has
        elif answer.status in {413, 416} | _UNCHUNKED:
            _LOG.info("%r answered %d to a chunk; sending whole blobs", place.url.host, answer.status)
            self.learned.bytes = None
            self.place, self.certain = None, True
            await upload_place.cancel(self.repository, place)
        else:
            told = told_offset(answer, end) if "Range" in answer.headers else end
            if told is None or not place.offset <= told <= end:
                self.place, self.certain = None, True
                self._set_back("says to have other bytes than it was sent")
                return
            if told < end:
                self._set_back("takes chunks in part only")
            self.place = await upload_place.moved(self.repository, place, answer, told)
            self.certain = True

    def _divides(self, place: UploadPlace, length: int) -> bool:
        """Whether a body of ``length`` bytes that was too large is to be followed by smaller ones."""
        smaller = length // 4
        if self.learned.bytes is None or smaller < max(self.policy.smallest_chunk, place.least):
            return False
        self.learned.bytes = min(self.learned.bytes, smaller)
        self._set_back("finds everything too large")
        return True

    async def _close(self, place: UploadPlace, start: int) -> None:
        """Send what is left from ``start`` on, and the digest ("POST then PUT", and the end of a chunked upload)."""
        size = self.descriptor.size
        target = place.with_digest(self.descriptor.digest)
        what = f"the upload of blob {self.descriptor.digest}"
        within = self.repository.client.timeouts.head + size / _HASHING_RATE
        body = self._body(start, size, within)
        self.closing = True
        # A place that is unknown is not the end, nor is a digest that is wrong because a resumed upload was joined
        # wrongly.
        again = frozenset({404, 416}) | (frozenset({400}) if self.resumed else frozenset())
        async with (
            body.watched(target),
            self.repository.ask(
                "PUT",
                target,
                what,
                accept=frozenset({200, 201, 204, 413}) | again,
                headers={"Content-Length": str(size - start), "Content-Type": "application/octet-stream"},
                body=body.open if size > start else b"",
                answer_within=within,
            ) as answer,
        ):
            if answer.status in again:  # the answer to an earlier attempt may have been lost: it may be there
                self.place, self.resumed = None, False
                self._set_back("forgets uploads")
                return
            if answer.status == 413:
                if not self._divides(place, size - start):
                    raise await self.repository.errors.condition(answer, what, now=self.repository.clock.time())
                self.closing = False
                return
            check_stored(answer, self.descriptor.digest)
        self.done = True


def check_stored(answer: aiohttp.ClientResponse, expected: Digest) -> None:
    """Compare what the registry says it stored, where it says so.

    Raises:
        DigestMismatchError: it stored something else.
    """
    told = told_digest(answer)
    if told is not None and told != expected:
        raise DigestMismatchError(str(expected), str(told))
