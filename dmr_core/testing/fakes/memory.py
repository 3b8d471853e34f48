"""Memory that tests decide."""

from __future__ import annotations

from dmr_core.domain.memory import Memory
from dmr_core.ports.memory import FootprintLedger, MachineMemory, MemoryProbe

__all__ = ["FakeMemoryProbe", "InMemoryFootprintLedger"]


class FakeMemoryProbe(MemoryProbe):
    """Says what ``reading`` says; ``None`` at first."""

    def __init__(self, reading: MachineMemory | None = None) -> None:
        self.reading = reading

    async def read(self) -> MachineMemory | None:
        """See :class:`MemoryProbe`."""
        return self.reading


class InMemoryFootprintLedger(FootprintLedger):
    """A dictionary."""

    def __init__(self) -> None:
        self.known: dict[str, Memory] = {}

    def get(self, name: str) -> Memory | None:
        """See :class:`FootprintLedger`."""
        return self.known.get(name)

    async def record(self, name: str, seen: Memory) -> None:
        """See :class:`FootprintLedger`."""
        known = self.known.get(name)
        self.known[name] = seen if known is None else seen.at_least(known)
