"""Half-open byte ranges, and sets of them: which parts of a blob are here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

import attrs

__all__ = ["Span", "SpanSet"]


@attrs.frozen(order=True)
class Span:
    """The bytes from ``start`` up to, not including, ``end``; never empty."""

    start: int = attrs.field()
    end: int = attrs.field()

    @end.validator
    def _is_after_start(self, _attribute: object, end: int) -> None:
        if not 0 <= self.start < end:
            raise ValueError(f"no span: {self.start} to {end}")

    def __len__(self) -> int:
        return self.end - self.start


@attrs.define(eq=True)
class SpanSet:
    """Bytes that are there, as spans that neither touch nor overlap, in order."""

    _spans: list[Span] = attrs.field(factory=list)

    @classmethod
    def of(cls, spans: Iterable[Span]) -> SpanSet:
        """The union of ``spans``."""
        found = cls()
        for span in spans:
            found.add(span.start, span.end)
        return found

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def count(self) -> int:
        """How many bytes are there."""
        return sum(map(len, self._spans))

    @property
    def prefix(self) -> int:
        """How many bytes are there from byte 0 on without a gap."""
        return self._spans[0].end if self._spans and self._spans[0].start == 0 else 0

    def add(self, start: int, end: int) -> None:
        """Add the bytes from ``start`` to ``end``; nothing happens where that is no byte."""
        if start >= end:
            return
        spans = self._spans
        first = bisect_left(spans, start, key=lambda span: span.end)
        last = first
        while last < len(spans) and spans[last].start <= end:
            start, end = min(start, spans[last].start), max(end, spans[last].end)
            last += 1
        spans[first:last] = [Span(start, end)]

    def missing(self, size: int) -> tuple[Span, ...]:
        """The gaps between byte 0 and ``size``."""
        gaps, position = [], 0
        for span in self._spans:
            if span.start >= size:
                break
            if span.start > position:
                gaps.append(Span(position, span.start))
            position = span.end
        if position < size:
            gaps.append(Span(position, size))
        return tuple(gaps)

    def clear(self) -> None:
        """Forget all of them."""
        self._spans.clear()
