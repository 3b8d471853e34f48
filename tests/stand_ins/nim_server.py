"""What runs in a container that is shaped like a NIM: an OpenAI server on port 8000, and nothing but the standard library.

The image says how it behaves: ``STANDIN_DELAY`` seconds until it is ready, ``STANDIN_CRASH`` to exit with that status
instead, ``STANDIN_KEY`` for the SHA-256 of the one NGC API key
that will do. Like real ones it knows its model by one name, and like the
worst of them it prints its key.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = os.environ.get("STANDIN_MODEL", "stand-in/model")
READY = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Health and models."""
        if self.path == "/v1/health/ready":
            self.reply(
                200 if READY.is_set() else 503, {"message": "Service is ready." if READY.is_set() else "Starting."}
            )
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self.reply(404, {"error": {"message": self.path}})

    def do_POST(self) -> None:
        """Chat."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or body.get("model") != MODEL:
            self.reply(404, {"error": {"message": f"The model {body.get('model')!r} does not exist."}})
            return
        said = body["messages"][-1]["content"]
        words = ["You", " said", ":", f" {said}"]
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
            self.reply(200, {"object": "chat.completion", "model": MODEL, "choices": [choice]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for number, word in enumerate([*words, None]):
            delta = {} if word is None else {"content": word, **({"role": "assistant"} if not number else {})}
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if word is None else None}
            chunk = {"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def reply(self, status: int, document: dict[str, Any]) -> None:
        """Answer with JSON."""
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing of requests."""


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    key = os.environ.get("NGC_API_KEY", "")
    print("===========================================\n== stand-in for NVIDIA Inference Microservice\n", flush=True)
    print(f"debug: using key {key}", file=sys.stderr, flush=True)
    wanted = os.environ.get("STANDIN_KEY", "")
    if wanted and hashlib.sha256(key.encode()).hexdigest() != wanted:
        print("ERROR: 401 Unauthorized: the NGC_API_KEY is not valid for this model", file=sys.stderr, flush=True)
        sys.exit(1)
    if crash := os.environ.get("STANDIN_CRASH"):
        # All on one stream: in which order the engine gets lines of two is anybody's guess.
        for number in range(20):
            print(f"loading shard {number}", file=sys.stderr, flush=True)
        print("RuntimeError: the engine core failed to start", file=sys.stderr, flush=True)
        sys.exit(int(crash))
    server = ThreadingHTTPServer(("0.0.0.0", 8000), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    delay = float(os.environ.get("STANDIN_DELAY", "0"))
    steps = 5 if delay else 0
    for step in range(steps):
        print(f"downloading weights: {100 * step // steps} %", flush=True)
        time.sleep(delay / steps)
    with open("/opt/nim/.cache/weights", "a", encoding="utf-8") as cache:
        cache.write(f"{MODEL}\n")
    READY.set()
    print("ready to serve", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
