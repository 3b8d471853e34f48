"""What is kept of requests, within which bounds, and who is told."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc

import pytest

from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineMode, RunnerKey
from dmr_core.domain.exchange import Account, account
from dmr_core.errors import UnavailableError
from dmr_core.services.recording import Recorder, Recording, SubscriptionEnd
from dmr_core.testing.fakes.clock import FakeClock


def key(name: str = "one") -> RunnerKey:
    return RunnerKey("fake", Digest.of(name.encode()), EngineMode.COMPLETION)


def record(recorder: Recorder, answer: bytes = b"{}", *, name: str = "one", request: bytes = b"{}") -> Recording:
    recording = recorder.begin(key(name), f"ai/{name}", "/v1/chat/completions", request)
    recording.add(answer)
    recording.finish(200, 0.5)
    return recording


def told(recording: Recording) -> Account:
    return account(recording.exchange())


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(FakeClock(time=1_700_000_000.0))


def test_an_exchange_is_kept_as_it_was(recorder: Recorder) -> None:
    recording = record(recorder, b'{"a": 1}', request=b'{"b": 2}')
    (exchange,) = recorder.exchanges()[key().model_id]

    assert (exchange.model, exchange.status, exchange.seconds) == ("ai/one", 200, 0.5)
    assert exchange.id == f"{key().model_id}_1700000000000000000"
    assert told(recording) == Account(status=200, request='{"b":2}', response='{"a":1}')


def test_ids_differ_though_the_clock_stands_still(recorder: Recorder) -> None:
    ids = {record(recorder).exchange().id for _ in range(5)}

    assert len(ids) == 5


def test_ten_are_kept_of_every_model(recorder: Recorder) -> None:
    for number in range(25):
        record(recorder, b"%d" % number, name="one" if number % 2 else "two")
    kept = recorder.exchanges()

    assert [b"%d" % number for number in range(5, 25, 2)] == [each.response[0] for each in kept[key("one").model_id]]
    assert len(kept[key("two").model_id]) == 10


def test_an_exchange_is_cut_at_its_limit() -> None:
    recorder = Recorder(FakeClock(), each=1000)
    recording = record(recorder, b"a" * 600, request=b"r" * 2000)
    recording.add(b"b" * 600)
    recording.add(b"c")
    exchange = recording.exchange()

    assert (exchange.cut, len(exchange.request)) == (True, 1000)
    assert 600 < len(b"".join(exchange.response)) < 1000
    assert b"c" not in b"".join(exchange.response)


def test_tiny_pieces_are_counted_with_what_they_cost() -> None:
    recorder = Recorder(FakeClock(), each=10_000)
    recording = recorder.begin(key(), "m", "/", b"")
    for _ in range(100_000):
        recording.add(b"x")

    assert len(recording.exchange().response) < 200
    assert recording.exchange().cut


def test_all_together_stay_within_the_limit_the_oldest_going_first() -> None:
    recorder = Recorder(FakeClock(), total=50_000, each=10_000)
    for number in range(40):
        record(recorder, bytes(4000), name=f"model-{number}")
    kept = recorder.exchanges()

    assert recorder.size <= 50_000
    assert [key(f"model-{number}").model_id for number in range(40 - len(kept), 40)] == list(kept)
    assert len(kept) == 9


def test_answers_under_way_count_too_and_a_dropped_one_keeps_nothing() -> None:
    recorder = Recorder(FakeClock(), total=100_000, each=90_000)
    first = recorder.begin(key("one"), "m", "/", b"request")
    second = recorder.begin(key("two"), "m", "/", b"request")
    for _ in range(200):
        first.add(bytes(1000))
        second.add(bytes(1000))

    assert recorder.size <= 100_000
    assert [key("two").model_id] == list(recorder.exchanges())
    assert (first.exchange().response, first.exchange().request) == ((), b"")
    first.finish(200, 1.0)
    second.finish(200, 1.0)
    assert recorder.size <= 100_000


def test_what_is_kept_really_takes_no_more_memory_than_that() -> None:
    recorder = Recorder(FakeClock(), total=4_000_000, each=1_000_000)
    tracemalloc.start()
    try:
        for number in range(2000):
            recording = recorder.begin(key(f"m{number % 300}"), "m", "/", bytes(2000))
            for _ in range(number % 50):
                recording.add(bytes(number % 300))
            recording.finish(200, 0.1)
        gc.collect()
        used, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 6_000_000


def test_a_request_under_way_is_listed_without_an_answer(recorder: Recorder) -> None:
    recording = recorder.begin(key(), "m", "/", b"{}")
    recording.add(b"half")

    assert told(recording) == Account(status=0, request="{}")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b'{"error": {"message": "x"}}', '{"error":{"message":"x"}}'),
        (502, b"plain", '{"error":"plain"}'),
        (502, b"", '{"error":"unknown error"}'),
        (499, b"", '{"error":"the client left before it was answered"}'),
    ],
)
def test_failures_are_told_as_errors(recorder: Recorder, status: int, body: bytes, error: str) -> None:
    recording = recorder.begin(key(), "m", "/", b"{}")
    recording.add(body)
    recording.finish(status, 0.1, abandoned=status == 499)

    assert (408 if status == 499 else status, "", error) == (
        told(recording).status,
        told(recording).response,
        told(recording).error,
    )


def test_a_stream_that_broke_is_an_error_with_the_status_of_the_failure(recorder: Recorder) -> None:
    recording = recorder.begin(key(), "m", "/", b"{}")
    recording.streamed = True
    recording.add(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"error":{"message":"died"}}\n\n')
    recording.finish(502, 0.1)

    assert json.loads(told(recording).error) == {"status_code": 502, "message": "died"}
    assert told(recording).response == ""


def test_a_stream_nobody_knows_is_shown_as_it_came(recorder: Recorder) -> None:
    recording = recorder.begin(key(), "m", "/", b"\xff\xfe")
    recording.streamed = True
    recording.add(b"data: Bearer abcdefghijklm\n\n")
    recording.finish(200, 0.1)

    assert told(recording).response == "data: Bearer ***\n\n"
    assert told(recording).request == "��"


def test_an_answer_nested_too_deeply_is_shown_as_it_came(recorder: Recorder) -> None:
    text = f'data: {{"choices":[],"usage":{"[" * 700}{"]" * 700}}}\n\n'
    recording = recorder.begin(key(), "m", "/", b"{}")
    recording.streamed = True
    recording.add(text.encode())
    recording.finish(200, 0.1)

    assert told(recording).response == text


async def test_what_waits_is_weighed_as_it_is_read(recorder: Recorder) -> None:
    with recorder.subscribe() as watch:
        for _ in range(4):
            record(recorder, bytes(900_000))
        for _ in range(40):
            assert await watch.next() is not None
            record(recorder, bytes(900_000))
        assert not watch.ended


def test_half_a_surrogate_pair_can_be_encoded(recorder: Recorder) -> None:
    recording = record(recorder, b'{"a": "\\ud83d"}')

    assert told(recording).response.encode() == b'{"a":"?"}'


async def test_who_watches_is_told_of_what_ends_and_of_nothing_else(recorder: Recorder) -> None:
    with recorder.subscribe(frozenset({str(key("one").model_id)})) as watch:
        record(recorder, name="two")
        recorder.begin(key("one"), "m", "/", b"")
        record(recorder, b"seen", name="one")
        exchange = await watch.next()
        assert exchange is not None
        assert exchange.response == (b"seen",)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await watch.next()


async def test_who_does_not_read_is_ended_and_keeps_nothing(recorder: Recorder) -> None:
    with recorder.subscribe() as slow, recorder.subscribe() as quick:
        for _ in range(101):
            record(recorder)
            assert await quick.next() is not None
        assert await slow.next() is None
        assert (SubscriptionEnd.SLOW, "") == (slow.ended, quick.ended)


async def test_who_does_not_read_large_answers_is_ended_sooner(recorder: Recorder) -> None:
    with recorder.subscribe() as slow:
        for _ in range(9):
            record(recorder, bytes(900_000))
        assert await slow.next() is None


async def test_closing_ends_every_watch_and_takes_no_more(recorder: Recorder) -> None:
    with recorder.subscribe() as watch:
        waiting = asyncio.ensure_future(watch.next())
        await asyncio.sleep(0)
        recorder.close()
        assert await waiting is None
        assert watch.ended == SubscriptionEnd.CLOSED
    with pytest.raises(UnavailableError):
        recorder.subscribe()


def test_so_many_watch_and_no_more_until_one_leaves(recorder: Recorder) -> None:
    watches = [recorder.subscribe() for _ in range(32)]
    with pytest.raises(UnavailableError, match="32 clients"):
        recorder.subscribe()
    with watches[0]:
        pass
    recorder.subscribe()
