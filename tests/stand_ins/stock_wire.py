"""HTTP as the stock ``docker model`` CLI speaks it: what it sends, retries, and insists on.

User-Agent and headers, raw references in lexically cleaned paths, exact status codes, progress lines that are
HTML-unescaped before they are read as JSON, lines of at most 64 KiB, four more tries of a transfer. It is
stricter than the original in one way: a progress stream that ends without ``success`` or ``error`` is a failure,
where the original prints nothing and is content.
"""

from __future__ import annotations

import html
import http.client
import json
import os
import posixpath
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

__all__ = ["NOT_RUNNING", "StatusError", "StockError", "Wire", "progress"]

USER_AGENT: Final = "docker-model-cli/1.2.6"
NOT_RUNNING: Final = "Docker Model Runner is not running. Please start it and try again."
_LINE_LIMIT: Final = 64 * 1024
_SHOWN: Final = 4096
_PAUSES: Final = (1, 2, 4, 8)
_GATEWAY: Final = (502, 503, 504)
_PASSING: Final = (
    "connection refused",
    "connection reset",
    "broken pipe",
    "timeout",
    "temporary failure",
    "no such host",
    "no route to host",
    "network is unreachable",
    "stream error",
    "internal_error",
    "protocol_error",
    "unexpected eof",
)
Body = bytes | Iterable[bytes] | None


class StockError(Exception):
    """What the command prints before it exits with 1. ``passing`` is whether a transfer tries again."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class StatusError(StockError):
    """The service answered with another status than the one the command wants; ``body`` is verbatim."""

    def __init__(self, status: int, reason: str, body: str, what: str) -> None:
        super().__init__(f"{what} failed with status {status} {reason}: {body}", passing=status in _GATEWAY)
        self.status = status
        self.body = body


class Wire:
    """Requests to the service at ``MODEL_RUNNER_HOST``."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ
        self._base = urlsplit(environ.get("MODEL_RUNNER_HOST") or "http://localhost:12434")
        self._pace = float(environ.get("STOCK_CLI_RETRY_SCALE", "1"))

    def open(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: Body = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; connection and answer, whatever its status. No ``Accept``, no timeouts."""
        agent = f"{USER_AGENT} {self.environ.get('USER_AGENT', '')}".rstrip()
        fields = {"User-Agent": agent, "Accept-Encoding": "gzip"}
        if body is not None:
            fields["Content-Type"] = "application/json"
        fields.update(headers or {})
        connection = http.client.HTTPConnection(self._base.hostname or "", self._base.port or 80)
        target = _escaped(_cleaned(f"{self._base.path}/{path}")) + (f"?{query}" if query else "")
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in fields.items():
                connection.putheader(name, value)
            if isinstance(body, bytes) or (body is None and method in ("POST", "PUT")):
                connection.putheader("Content-Length", str(len(body or b"")))
            elif body is not None:
                connection.putheader("Transfer-Encoding", "chunked")
            chunked = body is not None and not isinstance(body, bytes)
            connection.endheaders(body, encode_chunked=chunked)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise StockError(f"error querying {path}: {_words(error)}", passing=True) from error

    def ask(
        self,
        method: str,
        path: str,
        *,
        expect: tuple[int, ...] = (200,),
        query: str = "",
        body: Body = None,
        headers: dict[str, str] | None = None,
        what: str = "",
    ) -> bytes:
        """The body of an answer with exactly the status that is expected; 503 is "not running"."""
        connection, answer = self.open(method, path, query=query, body=body, headers=headers)
        try:
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StockError(f"error querying {path}: {_words(error)}", passing=True) from error
        finally:
            connection.close()
        if answer.headers.get("Content-Encoding"):
            raise StockError("the answer is compressed, and so would its stream be held back")
        if answer.status == 503:
            raise StockError(NOT_RUNNING)
        if answer.status not in expect:
            raise StatusError(answer.status, answer.reason, content.decode(errors="replace"), what or method)
        return content

    def json(self, method: str, path: str, **options: Any) -> Any:
        """An answer read as JSON."""
        content = self.ask(method, path, **options)
        try:
            return json.loads(content)
        except ValueError as error:
            raise StockError(f"failed to unmarshal response body: {error}") from error

    def transfer(self, path: str, body: dict[str, str] | None, verb: str, note: Callable[[str], None]) -> str:
        """A pull or push: four more tries of what may pass; the closing message."""
        for attempt, pause in enumerate((*_PAUSES, None), start=1):
            try:
                return self._once(path, body, verb, note)
            except StockError as error:
                if not error.passing:
                    raise
                if pause is None:
                    raise StockError(f"{verb} failed after {len(_PAUSES)} retries: {error}") from error
                note(f"Retrying {verb} (attempt {attempt}/{len(_PAUSES)}) in {pause}s...")
                time.sleep(pause * self._pace)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, path: str, body: dict[str, str] | None, verb: str, note: Callable[[str], None]) -> str:
        content = json.dumps(body).encode() if body else None
        connection, answer = self.open("POST", path, body=content)
        try:
            if answer.status != 200:
                raise StatusError(answer.status, answer.reason, answer.read().decode(errors="replace"), verb)
            return progress(_lines(answer), note)
        except (OSError, http.client.HTTPException) as error:
            raise StockError(f"error reading progress: {_words(error)}", passing=True) from error
        finally:
            connection.close()


def progress(lines: Iterable[bytes], note: Callable[[str], None]) -> str:
    """Read a stream of progress; its ``success`` message.

    Raises:
        StockError: an ``error`` line, nothing but garbage, or an end without a result.
    """
    garbage, seen, done = "", False, ""
    layers: dict[str, int] = {}
    for raw in lines:
        text = html.unescape(raw.decode(errors="replace")).strip()
        if not text:
            continue
        line = _progress_line(text)
        if line is None:
            garbage += text + "\n"
            continue
        seen = True
        if line["type"] == "progress":
            layer = line.get("layer") or {}
            layers[layer.get("id", "")] = layer.get("current", 0)
            note(f"Downloaded {sum(layers.values())} of {line.get('total', 0)}")
        elif line["type"] == "success":
            done = line["message"]
        elif line["type"] == "warning":
            note(f"Warning: {line['message']}")
        elif line["type"] == "error":
            message = line["message"]
            raise StockError(message, passing=any(word in message.lower() for word in _PASSING))
    if not seen:
        cut = garbage[:_SHOWN] + ("\n...[truncated]" if len(garbage) > _SHOWN else "")
        raise StockError(f"unexpected response from server (not valid progress data): {cut}")
    if garbage:  # the original passes over it; a service that mixes it in has appended text to its stream
        raise StockError(f"the stream holds lines that are no progress: {garbage[:_SHOWN]}")
    if not done:
        raise StockError("the stream ended without a result: unexpected EOF", passing=True)
    return done


def _progress_line(text: str) -> dict[str, Any] | None:
    """A line with the types the CLI's own struct has, or ``None``."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in ("type", "message", "mode")):
        return None
    layer = line.get("layer", {})
    numbers = [line.get("total", 0), *(layer.get(name, 0) for name in ("size", "current"))]
    if not isinstance(layer, dict) or not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return line


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := answer.readline(_LINE_LIMIT + 1):
        if len(line) > _LINE_LIMIT:
            raise StockError("error reading progress: bufio.Scanner: token too long")
        yield line
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


def _cleaned(path: str) -> str:
    """Go's ``path.Clean``, which knows no double slash at the beginning."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _escaped(path: str) -> str:
    """The path as Go writes it on the wire: references raw, only what no path may hold escaped."""
    return quote(path, safe="/:@!$&'()*+,;=~%")


def _words(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "unexpected EOF"
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)).lower()
