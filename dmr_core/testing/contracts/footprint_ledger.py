"""What every footprint ledger promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from dmr_core.domain.memory import Memory
from dmr_core.ports.memory import FootprintLedger

__all__ = ["FootprintLedgerContract"]


class FootprintLedgerContract(ABC):
    """Subclass it, and say how to make a ledger."""

    @pytest.fixture
    @abstractmethod
    def ledger(self) -> FootprintLedger:
        """The ledger under test; it knows nothing."""

    async def test_what_was_never_seen_is_not_known(self, ledger: FootprintLedger) -> None:
        assert ledger.get("a") is None

    async def test_the_most_that_was_seen_is_kept(self, ledger: FootprintLedger) -> None:
        await ledger.record("a", Memory(100, 7))
        await ledger.record("a", Memory(50, 9))
        await ledger.record("b", Memory(1, 0))
        assert ledger.get("a") == Memory(100, 9)
        assert ledger.get("b") == Memory(1, 0)
