"""Whatever ``/openapi.json`` allows is sent to the service: it never breaks, and answers nothing that is not documented."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable

from dmr_adapters.http.openapi.document import document, operations
from dmr_adapters.http.openapi.operation import Operation
from dmr_adapters.http.server import bind, serve
from dmr_core.domain.settings import Listen
from tests.integration.test_in_process import make_world

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LEFT_OUT = {
    ("GET", "/logs"),  # without an end, if it is asked to follow
    ("GET", "/engines/requests"),
    ("DELETE", "/models/purge"),  # under the other operations
    ("POST", "/models/load"),  # archives have fuzzers of their own
    ("GET", "/dmr/v1/search"),  # asks the network
}
TABLE = [operation for operation in operations() if (operation.method, operation.path) not in LEFT_OUT]
SEEDS = 20261123


@attrs.define
class Live:
    """The service on the shipped fakes, behind the real server, in a thread of its own."""

    url: str = ""
    _ready: threading.Event = attrs.field(factory=threading.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event | None = None

    def run(self) -> None:
        """Serve until stopped."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with make_world() as world:
            await world.pull("one")
            listener = bind(Listen(port=0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._ready.set()
            await serve(world.service.app, listener, self._stop)

    def stop(self) -> None:
        """Stop it."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    made = Live()
    thread = threading.Thread(target=made.run)
    thread.start()
    made._ready.wait(30)
    try:
        yield made
    finally:
        made.stop()
        thread.join()


def fuzz(live: Live, operation: Operation, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(document("1", [operation], keyed=False))
    schema.config.update(base_url=live.url)
    (found,) = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @seed(SEEDS)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @given(case=found.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=20)

        with contextlib.suppress(Unsatisfiable):  # nothing of this operation can be wrong
            run()


def name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("operation", TABLE[:: max(1, len(TABLE) // 12)], ids=name)
def test_a_sample_of_what_the_document_allows(live: Live, operation: Operation) -> None:
    fuzz(live, operation, 4)


@pytest.mark.slow
@pytest.mark.parametrize("operation", TABLE, ids=name)
def test_whatever_the_document_allows(live: Live, operation: Operation) -> None:
    fuzz(live, operation, 60)
