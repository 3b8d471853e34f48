"""Keeping the latest requests and answers for people to look at.

The request path only appends references to bytes it has in its hands anyway; making text of them is left to whoever
looks. What is kept is bounded: per exchange, in exchanges per model, and in bytes altogether.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Self

import attrs

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.exchange import Exchange
from dmr_core.errors import UnavailableError
from dmr_core.ports.clock import Clock

__all__ = ["Recorder", "Recording", "Subscription", "SubscriptionEnd"]

_PER_MODEL: Final = 10
_TOTAL: Final = 32 * 1024 * 1024
_EACH: Final = 640 * 1024  # with its connection, a client that reads nothing costs less than a megabyte
_OVERHEAD: Final = 64  # bytes that a chunk costs beside its content
_FIXED: Final = 1024  # bytes that a recording costs beside its chunks

_MAX_SUBSCRIPTIONS: Final = 32
_MAX_WAITING: Final = 100
_MAX_WAITING_BYTES: Final = 4 * 1024 * 1024


class Recording:
    """An exchange under way. Everything but :meth:`exchange` is on the request path."""

    __slots__ = (
        "_chunks",
        "_owner",
        "_room",
        "abandoned",
        "at",
        "cut",
        "key",
        "model",
        "request",
        "request_id",
        "seconds",
        "size",
        "status",
        "streamed",
        "url",
        "user_agent",
    )

    def __init__(self, owner: Recorder, key: RunnerKey, model: str, url: str, request: bytes, limit: int) -> None:
        self._owner = owner
        self._chunks: list[bytes] = []
        self._room = limit
        self.key = key
        self.model = model
        self.url = url
        self.cut = len(request) > limit
        self.request = request[:limit] if self.cut else request
        self.size = len(self.request) + _FIXED
        self.at = 0
        self.seconds = 0.0
        self.status = 0
        self.streamed = False
        self.abandoned = False
        self.user_agent = b""
        self.request_id = b""

    def add(self, chunk: bytes) -> None:
        """Keep a piece of the answer."""
        size = len(chunk) + _OVERHEAD
        if size > self._room:
            if not self.cut or self._room > _OVERHEAD:
                self._fill(chunk)
            return
        self._room -= size
        self.size += size
        self._chunks.append(chunk)
        self._owner.grew(size)

    def finish(self, status: int, seconds: float, *, abandoned: bool = False) -> None:
        """It has ended with ``status`` after ``seconds``; ``abandoned`` when the client left before it was complete."""
        self.status = status
        self.seconds = seconds
        self.abandoned = abandoned
        self._owner.finished(self)

    def exchange(self) -> Exchange:
        """What is known of it so far."""
        return Exchange(
            key=self.key,
            model=self.model,
            url=self.url,
            request=self.request,
            response=tuple(self._chunks),
            at=self.at,
            status=self.status,
            seconds=self.seconds,
            user_agent=self.user_agent.decode("latin-1"),
            origin="anthropic/messages" if self.url.endswith("/v1/messages") else "",
            request_id=self.request_id.decode("latin-1"),
            streamed=self.streamed,
            cut=self.cut,
            abandoned=self.abandoned,
        )

    def drop(self) -> None:
        """Let go of the bytes; nobody will ask for them."""
        self._chunks, self.request = [], b""
        self._room = 0
        self.cut = True

    def _fill(self, chunk: bytes) -> None:
        """Keep what there is room for, and no more after that."""
        room, self._room, self.cut = self._room - _OVERHEAD, 0, True
        if room > 0:
            self._chunks.append(chunk[:room])
            self.size += room + _OVERHEAD
            self._owner.grew(room + _OVERHEAD)


class Recorder:
    """The latest exchanges of every model. They outlive the engines that took part."""

    def __init__(self, clock: Clock, *, per_model: int = _PER_MODEL, total: int = _TOTAL, each: int = _EACH) -> None:
        self._clock = clock
        self._per_model = per_model
        self._total = total
        self._each = each
        self._rings: dict[str, deque[Recording]] = {}
        self._subscriptions: set[Subscription] = set()
        self._last = 0
        self._closed = False
        self.size = 0

    # --- the request path

    def begin(self, key: RunnerKey, model: str, url: str, request: bytes) -> Recording:
        """Keep a request that is about to go to an engine."""
        model_id = key.model_id.hex
        ring = self._rings.get(model_id)
        if ring is None:
            ring = self._rings[model_id] = deque()
        elif len(ring) >= self._per_model:
            self._forget(ring.popleft())
        recording = Recording(self, key, model, url, request, self._each)
        self._last = recording.at = max(self._last + 1, int(self._clock.time() * 1e9))
        ring.append(recording)
        self.grew(recording.size)
        return recording

    def grew(self, size: int) -> None:
        """A recording is ``size`` bytes larger. One that was dropped meanwhile no longer reports."""
        self.size += size
        if self.size > self._total:
            self._shrink()

    def finished(self, recording: Recording) -> None:
        """Tell those who watch."""
        if self._subscriptions:
            for subscription in list(self._subscriptions):
                subscription.offer(recording)

    # --- looking

    def exchanges(self, models: frozenset[str] | None = None) -> dict[Digest, tuple[Exchange, ...]]:
        """What is kept, by model, oldest first; ``models`` as for :meth:`subscribe`."""
        found: dict[Digest, tuple[Exchange, ...]] = {}
        for ring in self._rings.values():
            chosen = tuple(recording.exchange() for recording in ring if models is None or _is_of(recording, models))
            if chosen:
                found[chosen[0].key.model_id] = chosen
        return found

    def subscribe(self, models: frozenset[str] | None = None) -> Subscription:
        """Be told of every exchange that ends from now on; leave the context to stop.

        ``models`` are IDs (``sha256:…``) and names of the models to be told of, ``None`` for all.

        Raises:
            UnavailableError: as many watch as may, or the service stops.
        """
        if self._closed:
            raise UnavailableError("the service is stopping")
        if len(self._subscriptions) >= _MAX_SUBSCRIPTIONS:
            raise UnavailableError(
                f"{_MAX_SUBSCRIPTIONS} clients watch requests already: end one of them", retry_after=10
            )
        subscription = Subscription(self._subscriptions, models)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End every subscription. Idempotent."""
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.end(SubscriptionEnd.CLOSED)

    def _forget(self, recording: Recording) -> None:
        self.size -= recording.size
        recording.drop()

    def _shrink(self) -> None:
        """Drop the oldest of all until the rest fits."""
        while self.size > self._total and self._rings:
            name, ring = min(self._rings.items(), key=lambda entry: entry[1][0].at)
            self._forget(ring.popleft())
            if not ring:
                del self._rings[name]


class SubscriptionEnd:
    """Why a subscription ended, in words for whoever watched."""

    CLOSED: Final = "the service is stopping"
    SLOW: Final = "too slow: requests ended faster than they were read"


@attrs.define(eq=False)
class Subscription:
    """A watch over exchanges. Bounded: one that is not read is ended. A context manager."""

    _all: set[Subscription]
    _models: frozenset[str] | None
    _waiting: deque[Exchange] = attrs.field(factory=deque)
    _size: int = 0
    _news: asyncio.Event = attrs.field(factory=asyncio.Event)
    ended: str = ""

    def offer(self, recording: Recording) -> None:
        """An exchange has ended."""
        if self._models is not None and not _is_of(recording, self._models):
            return
        self._size += recording.size
        if len(self._waiting) >= _MAX_WAITING or (self._waiting and self._size > _MAX_WAITING_BYTES):
            self.end(SubscriptionEnd.SLOW)
            return
        self._waiting.append(recording.exchange())
        self._news.set()

    def end(self, why: str) -> None:
        """Tell the watcher that nothing more will come."""
        self._all.discard(self)
        self._waiting.clear()
        self.ended = self.ended or why
        self._news.set()

    async def next(self) -> Exchange | None:
        """The next exchange that ended; ``None`` when there will be none, see ``ended``."""
        while not self._waiting and not self.ended:
            self._news.clear()
            await self._news.wait()
        if self.ended:
            return None
        exchange = self._waiting.popleft()
        self._size = self._size - _weight(exchange) if self._waiting else 0
        return exchange

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._all.discard(self)


def _is_of(recording: Recording, models: frozenset[str]) -> bool:
    return str(recording.key.model_id) in models or recording.model in models


def _weight(exchange: Exchange) -> int:
    return len(exchange.request) + sum(map(len, exchange.response)) + _OVERHEAD * len(exchange.response) + _FIXED
