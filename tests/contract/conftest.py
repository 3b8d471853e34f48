"""Makes ``BOTH_LOOPS`` known to the tests of this directory."""

from tests.stand_ins.event_loops import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
