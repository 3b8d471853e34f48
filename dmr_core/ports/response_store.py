"""Where answers are kept that a later request may ask for, or go on from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import attrs

__all__ = ["KeptResponse", "ResponseStore"]


@attrs.frozen(kw_only=True)
class KeptResponse:
    """An answer, and what it was the answer to. All texts are opaque to a store.

    ``previous_id`` is the answer this one goes on from; ``input`` is what was said in this turn alone; ``events`` is the
    stream it was sent as, where that is kept. One that is not ``finished`` is worked on by some service, which writes it
    again every few seconds; ``written`` says when it last did, in seconds since the Unix epoch.
    """

    id: str
    previous_id: str | None = None
    document: bytes
    input: bytes = b"[]"
    events: bytes = b""
    finished: bool = True
    written: float = 0.0

    @property
    def size(self) -> int:
        """Bytes, as far as a bound is concerned."""
        return len(self.document) + len(self.input) + len(self.events)


class ResponseStore(Protocol):
    """Keeps answers for a time that begins anew when they are used, and never more bytes than it may.

    What was kept is there after a crash of the service. Where room is needed, those go that were not used for longest.
    """

    @abstractmethod
    async def keep(self, response: KeptResponse) -> None:
        """Keep an answer, instead of an earlier version of it.

        Raises:
            StorageFullError: it is larger than everything may be together, or the disk is full.
            StoreUnwritableError: it could not be written.
        """

    @abstractmethod
    async def find(self, response_id: str) -> KeptResponse | None:
        """An answer, unless it was never kept, removed, too old, or in the way.

        Raises:
            StoreUnwritableError: nothing can be read.
        """

    @abstractmethod
    async def chain(self, response_id: str, max_bytes: int) -> tuple[KeptResponse, ...]:
        """An answer and those before it, the newest first, without their events. All of them count as used.

        It ends at the beginning of the conversation, or before an answer that is not kept.

        Raises:
            BodyTooLargeError: together they are longer than ``max_bytes``.
            StoreUnwritableError: nothing can be read.
        """

    @abstractmethod
    async def remove(self, response_id: str) -> bool:
        """Forget an answer; whether there was one.

        Raises:
            StoreUnwritableError: it could not be forgotten.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Write what is to be written, and end. Idempotent."""
