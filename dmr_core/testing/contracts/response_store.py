"""What every store of answers promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import attrs
import pytest

from dmr_core.errors import BodyTooLargeError, StorageFullError
from dmr_core.ports.response_store import KeptResponse, ResponseStore
from dmr_core.testing.fakes.clock import FakeClock

__all__ = ["ResponseStoreContract"]


class ResponseStoreContract(ABC):
    """Subclass it, and say how to make a store."""

    LIFETIME: Final = 100.0
    """Seconds for which the store under test keeps an answer."""
    MAX_BYTES: Final = 1000
    """What it may keep."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The store's clock."""
        return FakeClock()

    @pytest.fixture
    @abstractmethod
    def store(self, clock: FakeClock) -> ResponseStore:
        """The store under test; it keeps nothing."""

    async def test_what_was_kept_is_found_whole(self, store: ResponseStore) -> None:
        kept = KeptResponse(
            id="b", previous_id="a", document=b"{}", input=b"[1]", events=b"e", finished=False, written=1.5
        )
        await store.keep(kept)
        assert await store.find("b") == kept
        assert await store.find("a") is None

    async def test_a_later_version_takes_the_place(self, store: ResponseStore) -> None:
        first = KeptResponse(id="a", document=b"1" * 600, finished=False)
        await store.keep(first)
        await store.keep(attrs.evolve(first, document=b"2" * 600, finished=True))
        assert await store.find("a") == KeptResponse(id="a", document=b"2" * 600)

    async def test_a_chain_goes_back_to_its_beginning(self, store: ResponseStore) -> None:
        turns = [_turn("a"), _turn("b", "a"), _turn("c", "b"), _turn("d", "a")]
        for turn in turns:
            await store.keep(turn)
        assert await store.chain("c", 1000) == (turns[2], turns[1], turns[0])
        assert await store.chain("d", 1000) == (turns[3], turns[0])
        assert await store.chain("nothing", 1000) == ()

    async def test_a_chain_ends_where_a_link_is_gone(self, store: ResponseStore) -> None:
        for turn in (_turn("a"), _turn("b", "a"), _turn("c", "b")):
            await store.keep(turn)
        await store.remove("b")
        assert [kept.id for kept in await store.chain("c", 1000)] == ["c"]

    async def test_a_chain_that_bites_its_tail_ends(self, store: ResponseStore) -> None:
        for turn in (_turn("a", "b"), _turn("b", "a")):
            await store.keep(turn)
        assert [kept.id for kept in await store.chain("a", 1000)] == ["a", "b"]

    async def test_a_chain_is_read_without_events_and_within_bounds(self, store: ResponseStore) -> None:
        await store.keep(attrs.evolve(_turn("a"), events=b"e" * 900))
        (found,) = await store.chain("a", 20)
        assert found.events == b""
        with pytest.raises(BodyTooLargeError):
            await store.chain("a", 2)

    async def test_what_was_removed_is_gone(self, store: ResponseStore) -> None:
        await store.keep(_turn("a"))
        assert await store.remove("a")
        assert not await store.remove("a")
        assert await store.find("a") is None

    async def test_what_was_not_used_for_its_lifetime_is_gone(self, store: ResponseStore, clock: FakeClock) -> None:
        for turn in (_turn("a"), _turn("b", "a"), _turn("c")):
            await store.keep(turn)
        await clock.advance(60)
        await store.chain("b", 1000)
        await clock.advance(60)
        assert await store.find("a") is not None
        assert await store.find("b") is not None
        assert await store.find("c") is None
        assert not await store.remove("c")

    async def test_the_least_used_make_room(self, store: ResponseStore, clock: FakeClock) -> None:
        for name in "abc":
            await store.keep(KeptResponse(id=name, document=b"x" * 300, input=b""))
            await clock.advance(1)
        await store.chain("a", 1000)
        await clock.advance(1)
        await store.keep(KeptResponse(id="d", document=b"x" * 300, input=b""))
        assert [name for name in "abcd" if await store.find(name)] == ["a", "c", "d"]

    async def test_one_that_cannot_fit_is_refused_and_costs_nobody_his_place(self, store: ResponseStore) -> None:
        await store.keep(_turn("a"))
        with pytest.raises(StorageFullError):
            await store.keep(KeptResponse(id="b", document=b"x" * 1001))
        assert await store.find("a") is not None
        assert await store.find("b") is None

    async def test_closing_twice_is_closing_once(self, store: ResponseStore) -> None:
        await store.keep(_turn("a"))
        await store.aclose()
        await store.aclose()


def _turn(name: str, previous: str | None = None) -> KeptResponse:
    return KeptResponse(id=name, previous_id=previous, document=b'"%b"' % name.encode())
