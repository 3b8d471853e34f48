"""From the standard library's logging to the log book, and to files if there are to be any."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Final

from dmr_adapters.logs.book import LogBook, stamp
from dmr_core.errors import StoreUnwritableError

__all__ = ["ENGINES", "BookHandler", "logfmt", "recording"]

ENGINES: Final = "dmr.engine"
"""Logger under which each engine's output is logged, line by line, as ``dmr.engine.NAME``."""

_SERVICE_FILE: Final = "inference.log"
_ENGINE_FILE: Final = "inference-llama.cpp-server.log"  # the reference's name for the lines of all engines
_FILE_SIZE: Final = 10 * 1024 * 1024
_OLD_FILES: Final = 2
_LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "ERROR"}
_LONGEST: Final = 32 * 1024
_PATIENCE: Final = 1.0
"""Seconds the last lines have to get to the disk, twice: a service that ends is killed soon if it takes longer."""


class BookHandler(logging.Handler):
    """Writes every record to a book as one line, with nothing secret in it."""

    def __init__(self, book: LogBook, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._book = book
        self._redact = redact

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        try:
            self._book.add(logfmt(record, self._redact), engine=_of_engine(record))
        except Exception:  # logging must never fail what it tells about
            self.handleError(record)


def logfmt(record: logging.LogRecord, redact: Callable[[str], str]) -> str:
    """A record as ``time=… level=… msg=… component=…``, which is how Go's slog writes text.

    What is secret goes before anything is quoted: a quoted quote would hide it.
    """
    message = redact(record.getMessage())
    engine = _of_engine(record)
    component = record.name.removeprefix(f"{ENGINES}." if engine else "dmr.")
    fields = [
        f"time={stamp(int(record.created * 1000) * 1_000_000)[:23]}Z",
        f"level={_LEVELS.get(record.levelname, record.levelname)}",
        f"msg={_quoted(message)}",
        f"{'engine' if engine else 'component'}={_quoted(component)}",
    ]
    if record.exc_info:
        fields.append(f"error={_quoted(redact(logging.Formatter().formatException(record.exc_info)))}")
    return " ".join(fields)


@contextmanager
def recording(book: LogBook, redact: Callable[[str], str], directory: Path | None = None) -> Iterator[None]:
    """Record everything that is logged meanwhile, engines' lines at any level; also in files of ``directory``.

    Raises:
        StoreUnwritableError: the directory cannot be written.
    """
    root, engines = logging.getLogger(), logging.getLogger(ENGINES)
    level = engines.level
    handler = BookHandler(book, redact)
    with _files(directory, redact) as writing:
        try:
            for added in (handler, *writing):
                root.addHandler(added)
            engines.setLevel(logging.INFO)
            yield
        finally:
            engines.setLevel(level)
            for added in (handler, *writing):
                root.removeHandler(added)


@contextmanager
def _files(directory: Path | None, redact: Callable[[str], str]) -> Iterator[list[logging.Handler]]:
    """Handlers that write files, in a thread of their own: whoever logs never waits for a disk."""
    if directory is None:
        yield []
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files = [_file(directory / name) for name in (_SERVICE_FILE, _ENGINE_FILE)]
    except OSError as exc:
        raise StoreUnwritableError(f"cannot write logs to {str(directory)!r}: {exc.strerror or exc}") from exc
    files[0].addFilter(lambda record: not record.engine)  # type: ignore[attr-defined]  # see _LineQueue
    files[1].addFilter(lambda record: record.engine)  # type: ignore[attr-defined]
    lines: queue.Queue[logging.LogRecord] = queue.Queue(10_000)
    listener = _Listener(lines, *files)
    listener.start()
    try:
        yield [_LineQueue(lines, redact)]
    finally:
        listener.finish()
        for file in files:
            _close(file)


def _file(path: Path) -> RotatingFileHandler:
    handler = RotatingFileHandler(path, maxBytes=_FILE_SIZE, backupCount=_OLD_FILES, encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _close(file: logging.FileHandler) -> None:
    """Close it unless the disk still holds who writes to it: closing would wait as long; it ends with the process."""
    lock = file.lock
    if lock is None or lock.acquire(blocking=False):
        try:
            file.close()
        finally:
            if lock is not None:
                lock.release()


class _Listener(QueueListener):
    """Writes the lines of a queue; it can be ended though the queue is full and the disk cannot keep up."""

    def __init__(self, lines: queue.Queue[logging.LogRecord], *handlers: logging.Handler) -> None:
        super().__init__(lines, *handlers)
        self._lines = lines

    def finish(self) -> None:
        """Write what can be written in a second, then nothing more, and wait another one for what is being written."""
        thread = self._thread
        if thread is None:
            return
        self.enqueue_sentinel()
        thread.join(_PATIENCE)
        if thread.is_alive():
            with suppress(queue.Empty):
                while True:
                    self._lines.get_nowait()
            self.enqueue_sentinel()
            thread.join(_PATIENCE)

    def enqueue_sentinel(self) -> None:
        """See :class:`QueueListener`; lines make way for it."""
        while True:
            try:
                super().enqueue_sentinel()
            except queue.Full:
                with suppress(queue.Empty):
                    self._lines.get_nowait()
            else:
                return


class _LineQueue(QueueHandler):
    """Queues finished lines; those that find the queue full are lost rather than waited for."""

    def __init__(self, lines: queue.Queue[logging.LogRecord], redact: Callable[[str], str]) -> None:
        super().__init__(lines)
        self._redact = redact

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        at = stamp(int(record.created * 1_000_000) * 1000)
        line = logging.makeLogRecord({"msg": f"[{at}] {logfmt(record, self._redact)}", "levelno": record.levelno})
        line.engine = _of_engine(record)
        return line

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full queue: nothing to be done, and nobody to be told in a better way."""


def _of_engine(record: logging.LogRecord) -> bool:
    return record.name.startswith(f"{ENGINES}.")


def _quoted(text: str) -> str:
    """As it is where it is one plain word, else in quotes and on one line."""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + " [cut]"
    if text.isprintable():
        plain = text and not any(character in text for character in ' "=')
        return text if plain else json.dumps(text, ensure_ascii=False)
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in quoted)
