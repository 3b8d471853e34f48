"""A stand-in for llama-server: it starts in milliseconds, echoes, and misbehaves on demand.

It takes llama-server's flags (``--model``, ``--alias``, ``--host``, ``--port``; all others are
ignored) and answers ``/health``, ``/v1/models``, ``/v1/chat/completions``, ``/v1/completions``,
``/v1/embeddings``, ``/v1/rerank`` and ``/metrics``. How it misbehaves stands in ``standin.json``
beside the program, since engines get no environment of ours (see ``standin_install.py``):

=================  ======================================================================
``starts``         a file to which each start appends a line of JSON: pid, argv
``message``        printed on stderr at start, and again when it crashes
``verbose``        printed on stderr at start with ``--verbosity 4`` alone
``version``        what ``--version`` prints
``exit_code``      exit with this at once
``start_delay``    seconds before it listens
``load_delay``     seconds for which ``/health`` then answers 503
``never_ready``    ``/health`` answers 503 for ever
``crash_in_load``  seconds after which it dies by SIGABRT, having listened but not loaded
``ignore_sigterm``  only SIGKILL ends it
``event_delay``    seconds before every event of a stream
``events``         number of events of a stream; by default one per word of the echo
``die_after``      die by SIGKILL after so many events
``hang_after``     say nothing more after so many events
``departures``     a file to which a line is appended whenever a client leaves a stream that hangs: the monotonic time
``pause_after``    say nothing for ``pause`` seconds after so many events
``grandchild``     start a process that ignores SIGTERM; ``"session"``: in a session of its own
``hang_metrics``   never answer ``/metrics``
``long_line``      print so many bytes without a line end
``binary``         print every byte there is
``allocate``       hold so many bytes of memory
=================  ======================================================================
"""

# Importing pathlib would be a good part of the start.

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

_VALUED = {
    "-m": "model",
    "--model": "model",
    "-a": "alias",
    "--alias": "alias",
    "--host": "host",
    "--port": "port",
    "--verbosity": "verbosity",
}


def main(argv: list[str]) -> None:
    """Serve until killed, or fail as configured."""
    if "--version" in argv:
        print(_config().get("version", "version: 1 (standin)"), file=sys.stderr)
        return
    options = _options(argv)
    config = _config()
    if "starts" in config:
        line = json.dumps({"pid": os.getpid(), "argv": argv}) + "\n"
        with open(config["starts"], "a", encoding="utf-8") as file:
            file.write(line)
    if config.get("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _print(config)
    if options.get("verbosity") == "4" and "verbose" in config:
        print(config["verbose"], file=sys.stderr, flush=True)
    if "exit_code" in config:
        sys.exit(config["exit_code"])
    model = options.get("model")
    if model and not os.path.exists(model):
        sys.exit(f"error: failed to load model {model!r}: no such file")
    if config.get("grandchild"):
        _start_grandchild(own_session=config["grandchild"] == "session")
    memory = bytearray(b"\x01") * config.get("allocate", 0)
    time.sleep(config.get("start_delay", 0))
    Engine(options, config).serve()
    del memory


def _options(argv: list[str]) -> dict[str, str]:
    options = {"host": "127.0.0.1", "port": "8080"}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in _VALUED:
            options[_VALUED[flag]] = value if equals else next(words, "")
    return options


def _config() -> dict[str, Any]:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "standin.json")
    try:
        with open(path, encoding="utf-8") as file:
            config: dict[str, Any] = json.load(file)
            return config
    except FileNotFoundError:
        return {}


def _print(config: dict[str, Any]) -> None:
    if "message" in config:
        print(config["message"], file=sys.stderr, flush=True)
    if config.get("long_line"):
        sys.stdout.write("x" * config["long_line"])
        sys.stdout.flush()
    if config.get("binary"):
        sys.stdout.buffer.write(bytes(range(256)) * 16)
        sys.stdout.buffer.flush()


def _start_grandchild(*, own_session: bool) -> None:
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 1000"], start_new_session=own_session)
    print(f"grandchild {child.pid}", flush=True)


class Engine:
    """The HTTP service: one thread per connection, HTTP/1.1 with keep-alive."""

    def __init__(self, options: dict[str, str], config: dict[str, Any]) -> None:
        self._options = options
        self._config = config
        self._alias = options.get("alias") or options.get("model") or "standin"
        self._ready_at = time.monotonic() + config.get("load_delay", 0)
        self._requests = 0

    def serve(self) -> None:
        """Accept connections for ever."""
        if "crash_in_load" in self._config:
            threading.Thread(target=self._crash_in_load, daemon=True).start()
        listener = self._listen()
        print("standin: listening", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _listen(self) -> socket.socket:
        host = self._options["host"]
        if host.endswith(".sock"):
            if os.path.exists(host):
                os.unlink(host)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(host)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(self._options["port"])))
        listener.listen(128)
        return listener

    def _crash_in_load(self) -> None:
        time.sleep(self._config["crash_in_load"])
        print(self._config.get("message", "standin: crashed"), file=sys.stderr, flush=True)
        os.abort()

    @property
    def _is_ready(self) -> bool:
        never = self._config.get("never_ready") or "crash_in_load" in self._config
        return not never and time.monotonic() >= self._ready_at

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            try:
                while self._answer_one(connection, reader):
                    pass
            except OSError:  # the client left
                pass

    def _answer_one(self, connection: socket.socket, reader: Any) -> bool:
        first = reader.readline().decode().split()
        if len(first) != 3:
            return False
        method, target, _ = first
        headers = {}
        while line := reader.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        body = reader.read(int(headers.get(b"content-length", 0)))
        path = target.partition("?")[0].removeprefix("/v1")
        self._requests += 1
        if path == "/health":
            status = 200 if self._is_ready else 503
            _send(connection, status, {"status": "ok"} if self._is_ready else _error(503, "Loading model"))
        elif path == "/models":
            model = {"id": self._alias, "object": "model", "owned_by": "standin"}
            _send(connection, 200, {"object": "list", "data": [model]})
        elif path == "/metrics":
            if self._config.get("hang_metrics"):
                time.sleep(1000)
            text = f"# TYPE llamacpp:requests_total counter\nllamacpp:requests_total {self._requests}\n"
            _send(connection, 200, text.encode(), kind="text/plain; version=0.0.4")
        elif method != "POST" or path not in {"/chat/completions", "/completions", "/embeddings", "/rerank"}:
            _send(connection, 404, _error(404, "File Not Found"))
        elif not self._is_ready:
            _send(connection, 503, _error(503, "Loading model"))
        else:
            self._infer(connection, path, body)
        return bool(headers.get(b"connection", b"").lower() != b"close")

    def _infer(self, connection: socket.socket, path: str, body: bytes) -> None:
        try:
            request = json.loads(body)
            text = _said(request)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
            _send(connection, 400, _error(400, f"invalid request: {exc}"))
            return
        if path == "/embeddings":
            _send(connection, 200, self._embeddings(request))
        elif path == "/rerank":
            _send(connection, 200, self._rerank(request))
        elif request.get("stream"):
            self._stream(connection, text, request, is_chat=path == "/chat/completions")
        else:
            _send(connection, 200, self._completion(text, is_chat=path == "/chat/completions"))

    def _completion(self, text: str, *, is_chat: bool) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        kind = "chat.completion" if is_chat else "text_completion"
        choices = [{"index": 0, "finish_reason": "stop", **said}]
        return {**self._answer(kind), "choices": choices, "usage": _usage(text)}

    def _answer(self, kind: str) -> dict[str, Any]:
        return {"id": f"standin-{self._requests}", "object": kind, "created": int(time.time()), "model": self._alias}

    def _stream(self, connection: socket.socket, text: str, request: dict[str, Any], *, is_chat: bool) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(self._events(text, request, is_chat=is_chat)):
            if number == self._config.get("die_after"):
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self._config.get("hang_after"):
                self._hang(connection)
            if number == self._config.get("pause_after"):
                time.sleep(self._config["pause"])
            time.sleep(self._config.get("event_delay", 0))
            _send_chunk(connection, f"data: {json.dumps(event)}\n\n".encode())
        _send_chunk(connection, b"data: [DONE]\n\n")
        _send_chunk(connection, b"")

    def _hang(self, connection: socket.socket) -> None:
        if "departures" not in self._config:
            while True:
                time.sleep(1000)
        while connection.recv(1):
            pass
        line = f"{time.monotonic()}\n"
        with open(self._config["departures"], "a", encoding="utf-8") as file:
            file.write(line)
        raise ConnectionError("the client left")

    def _events(self, text: str, request: dict[str, Any], *, is_chat: bool) -> Iterator[dict[str, Any]]:
        pieces = [word + " " for word in text.split(" ")]
        pieces[-1] = pieces[-1][:-1]
        if "events" in self._config:
            pieces = [pieces[number % len(pieces)] for number in range(self._config["events"])]
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        for piece in pieces:
            said = {"delta": {"content": piece}} if is_chat else {"text": piece}
            yield {**self._answer(kind), "choices": [{"index": 0, "finish_reason": None, **said}]}
        last: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
        yield {**self._answer(kind), "choices": [{"index": 0, "finish_reason": "stop", **last}]}
        if (request.get("stream_options") or {}).get("include_usage"):
            yield {**self._answer(kind), "choices": [], "usage": _usage(text)}

    def _embeddings(self, request: dict[str, Any]) -> dict[str, Any]:
        given = request["input"]
        texts = given if isinstance(given, list) else [given]
        data = [{"object": "embedding", "index": i, "embedding": _vector(str(text))} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "model": self._alias, "data": data, "usage": usage}

    def _rerank(self, request: dict[str, Any]) -> dict[str, Any]:
        query = set(str(request.get("query", "")).split())
        scores = [len(query & set(str(document).split())) for document in request.get("documents", [])]
        results = [{"index": index, "relevance_score": float(score)} for index, score in enumerate(scores)]
        return {"model": self._alias, "object": "list", "results": results}


def _said(request: dict[str, Any]) -> str:
    if "messages" not in request:
        return str(request.get("prompt", ""))
    content = [message["content"] for message in request["messages"] if message["role"] == "user"][-1]
    if isinstance(content, list):
        content = " ".join(part["text"] for part in content if part["type"] == "text")
    return str(content)


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": words, "completion_tokens": words, "total_tokens": 2 * words}


def _vector(text: str) -> list[float]:
    return [zlib.crc32(f"{number}{text}".encode()) / 2**32 for number in range(8)]


def _error(code: int, message: str) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 404: "not_found_error", 503: "unavailable_error"}[code]
    return {"error": {"code": code, "message": message, "type": kind}}


def _send(connection: socket.socket, status: int, body: Any, *, kind: str = "application/json") -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Standin\r\nContent-Type: {kind}\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)


def _send_chunk(connection: socket.socket, data: bytes) -> None:
    connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))


if __name__ == "__main__":
    main(sys.argv[1:])
