"""The log book: what it keeps, in which order, for whom, and what it never shows."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import threading
import time
from contextlib import aclosing
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from dmr_adapters.logs.book import LogBook, stamp
from dmr_adapters.logs.handler import logfmt, recording
from dmr_adapters.process.redaction import Redactor, redact_secrets
from dmr_core.errors import StoreUnwritableError

LINE = re.compile(r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z)\] (.+)\n")


def book(**options: int) -> LogBook:
    """A book on which a second passes with each line."""
    ticks = itertools.count(1)
    return LogBook(clock=lambda: next(ticks) * 1_000_000_000, **options)


async def text(of: LogBook, *, engines: bool = True) -> list[str]:
    """What the lines of a book say."""
    content = b"".join([piece async for piece in of.read(engines=engines)]).decode()
    return [match[1] for match in re.findall(LINE, content)]


def test_a_stamp_has_nine_digits_and_is_in_utc() -> None:
    assert stamp(1_136_171_045_000_000_007) == "2006-01-02T03:04:05.000000007Z"


async def test_lines_are_merged_by_time() -> None:
    made = book()
    for number in range(6):
        made.add(f"line {number}", engine=number % 3 == 1)

    assert [f"line {number}" for number in range(6)] == await text(made)
    assert ["line 0", "line 2", "line 3", "line 5"] == await text(made, engines=False)


async def test_the_service_comes_first_at_the_same_moment() -> None:
    made = LogBook(clock=lambda: 1)
    made.add("engine", engine=True)
    made.add("service", engine=False)

    assert ["service", "engine"] == await text(made)


async def test_a_talkative_engine_takes_nothing_from_the_service() -> None:
    made = book(limit=10_000)
    made.add("service", engine=False)
    for number in range(1000):
        made.add(f"engine {number} " + "x" * 100, engine=True)
    lines = await text(made)

    assert lines[0] == "service"
    assert lines[-1].startswith("engine 999")
    assert 10 < len(lines) < 40


async def test_a_follower_gets_what_comes_until_the_book_is_closed() -> None:
    made = book()
    made.add("before", engine=False)
    async with aclosing(made.read(follow=True)) as pieces:
        assert b"before" in await anext(pieces)
        made.add("after", engine=True)
        assert b"after" in await anext(pieces)
        threading.Thread(target=lambda: made.add("from a thread", engine=False)).start()
        assert b"from a thread" in await asyncio.wait_for(anext(pieces), 5)
        made.add("last", engine=False)
        made.close()
        assert b"last" in await anext(pieces)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(pieces), 5)
    assert made._readers == set()


async def test_a_follower_misses_nothing_between_what_is_kept_and_what_comes() -> None:
    made = book()
    made.add("one", engine=False)
    async with aclosing(made.read(follow=True)) as pieces:
        await anext(pieces)
        for number in range(50):
            made.add(f"n{number}", engine=False)
        content = b""
        while b"n49" not in content:
            content += await asyncio.wait_for(anext(pieces), 5)

    assert [f"n{number}" for number in range(50)] == [match[1] for match in re.findall(LINE, content.decode())]


async def test_a_follower_that_is_slow_is_told_what_it_missed_and_costs_no_more_than_its_bound() -> None:
    made = book(backlog=2000)
    made.add("first", engine=False)
    async with aclosing(made.read(follow=True)) as pieces:
        await anext(pieces)
        for number in range(100):
            made.add(f"n{number}", engine=False)
        content = (await anext(pieces)).decode()
        lines = [match[1] for match in re.findall(LINE, content)]
        made.add("goes on", engine=False)
        assert b"goes on" in await anext(pieces)

    assert lines[0] == "n0"
    missed = re.search(r"(\d+) lines left out", lines[-1])
    assert missed
    assert len(lines) - 1 + int(missed[1]) == 100


async def test_a_reader_that_leaves_is_forgotten() -> None:
    made = book()
    made.add("x", engine=False)
    reading = asyncio.ensure_future(_follow(made))
    while not made._readers:
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert made._readers == set()


async def _follow(made: LogBook) -> None:
    async with aclosing(made.read(follow=True)) as pieces:
        async for _ in pieces:
            pass


# --- the handler


def record(message: str, name: str = "dmr.test", level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "file", 1, message, None, None)
    made.created = 1_700_000_000.25
    return made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (record("word"), "level=INFO msg=word component=test"),
        (record("two words"), 'level=INFO msg="two words" component=test'),
        (record('a "b" c=d'), 'level=INFO msg="a \\"b\\" c=d" component=test'),
        (record(""), 'level=INFO msg="" component=test'),
        (record("a\nlevel=ERROR"), 'level=INFO msg="a\\nlevel=ERROR" component=test'),
        (record("é\x1b[2J\x9b\u202e"), 'level=INFO msg="é\\u001b[2J\\u009b\\u202e" component=test'),
        (record("w", level=logging.WARNING), "level=WARN msg=w component=test"),
        (record("w", level=logging.CRITICAL), "level=ERROR msg=w component=test"),
        (record("w", name="dmr.engine.llama_cpp"), "level=INFO msg=w engine=llama_cpp"),
        (record("w", name="asyncio"), "level=INFO msg=w component=asyncio"),
    ],
)
def test_a_record_is_one_line(made: logging.LogRecord, expected: str) -> None:
    assert f"time=2023-11-14T22:13:20.250Z {expected}" == logfmt(made, redact_secrets)


def test_a_secret_in_quotes_is_hidden_too() -> None:
    """Quoting must not come before hiding: a quoted quote looks different."""
    line = logfmt(record('asked with {"api_key": "hunter2-is-secret"}'), redact_secrets)

    assert "hunter2" not in line


async def test_everything_that_is_logged_is_recorded_without_secrets_and_home_directories() -> None:
    made = LogBook()
    log = logging.getLogger("dmr.somewhere")
    with recording(made, Redactor({Path("/home/ann"): "~"})):
        log.error("Bearer abc123 reads /home/ann/key")
        try:
            raise ValueError("token=/home/ann HF_TOKEN=hf_abcdefghijk")
        except ValueError:
            log.exception("failed")
        logging.getLogger("dmr.engine.llama_cpp").info("a line of an engine")
    log.error("after")
    lines = await text(made)

    assert len(lines) == 3
    assert 'msg="Bearer *** reads ~/key"' in lines[0]
    assert "hf_abcdefghijk" not in lines[1]
    assert "error=" in lines[1]
    assert "/home/ann" not in lines[1]
    assert 'msg="a line of an engine" engine=llama_cpp' in lines[2]


async def test_engines_are_recorded_at_any_log_level() -> None:
    """And the level is as it was afterwards."""
    made, root, engines = LogBook(), logging.getLogger(), logging.getLogger("dmr.engine")
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with recording(made, redact_secrets):
            logging.getLogger("dmr.engine.x").info("told")
            logging.getLogger("dmr.x").info("not told")
    finally:
        root.setLevel(level)

    assert len(await text(made)) == 1
    assert engines.level == logging.NOTSET


def test_files_have_the_same_lines(tmp_path: Path) -> None:
    with recording(LogBook(), redact_secrets, tmp_path / "logs"):
        logging.getLogger("dmr.x").error("of the service, %s", "token=hf_abcdefghijk")
        logging.getLogger("dmr.engine.x").info("of an engine")
    service = (tmp_path / "logs" / "inference.log").read_text()
    engine = (tmp_path / "logs" / "inference-llama.cpp-server.log").read_text()

    assert LINE.fullmatch(service)
    assert "of the service" in service
    assert "hf_abc" not in service
    assert LINE.fullmatch(engine)
    assert 'msg="of an engine"' in engine


def test_a_log_directory_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreUnwritableError, match=r"cannot write logs to '.*file/logs'"),
        recording(LogBook(), redact_secrets, tmp_path / "file" / "logs"),
    ):
        pass


@pytest.mark.parametrize("disk", ["slow", "stuck"])
def test_a_disk_that_cannot_keep_up_holds_up_neither_who_logs_nor_the_end(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    threads = set(threading.enumerate())
    opened: set[RotatingFileHandler] = set()
    writing = RotatingFileHandler.emit

    def emit(handler: RotatingFileHandler, record: logging.LogRecord) -> None:
        opened.add(handler)
        if disk == "slow":
            time.sleep(0.02)
        else:
            release.wait(30.0)
        writing(handler, record)

    monkeypatch.setattr("dmr_adapters.logs.handler._PATIENCE", 0.1)
    monkeypatch.setattr(RotatingFileHandler, "emit", emit)
    began = time.monotonic()
    with recording(LogBook(), redact_secrets, tmp_path):
        for number in range(10_050):
            logging.getLogger("dmr.x").error("line %d", number)
    try:
        assert time.monotonic() - began < 10.0
        assert (set(threading.enumerate()) <= threads) == (disk == "slow")
    finally:
        release.set()
        for thread in set(threading.enumerate()) - threads:
            thread.join(10.0)
        for handler in opened:
            handler.close()
    assert "line 0" in (tmp_path / "inference.log").read_text()
