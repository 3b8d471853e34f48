"""Docker Hub and Hugging Face on one loopback port, as far as searching asks them; well behaved, or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs

__all__ = ["SearchHubs", "search_hubs"]

Reply = tuple[int, dict[str, str], bytes]


@attrs.define
class SearchHubs:
    """``repositories`` are Docker Hub's, ``models`` Hugging Face's, ``files`` those of its models by name.

    ``page`` is the largest page Docker Hub gives. ``replies`` holds answers to give instead, by path; an
    ``threading.Event`` there holds the request until it is set. ``requests`` lists the targets that were asked.
    """

    repositories: list[dict[str, Any]] = attrs.field(factory=list)
    models: list[dict[str, Any]] = attrs.field(factory=list)
    files: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    page: int = 100
    replies: dict[str, Reply | threading.Event] = attrs.field(factory=dict)
    requests: list[str] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0
    on_files: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        """Where both hubs are."""
        return f"http://127.0.0.1:{self.port}"

    def reply(self, target: str) -> Reply:
        """What a request for ``target`` gets."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        canned = self.replies.get(parts.path)
        if isinstance(canned, threading.Event):
            canned.wait(20)
        elif canned is not None:
            return canned
        if parts.path == "/v2/repositories/ai/":
            return _json(self._page(query))
        if parts.path == "/api/models":
            return _json(self._found(query))
        name = parts.path.removeprefix("/api/models/")
        if name in self.files:
            if self.on_files is not None:
                self.on_files()
            return _json({"id": name, "siblings": self.files[name] if query.get("blobs") == "true" else []})
        return _json({"error": "Repository not found"}, 404)

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        ordered = sorted(self.repositories, key=lambda each: -(each.get("pull_count") or 0))
        number, size = int(query.get("page", "1")), min(int(query["page_size"]), self.page)
        start = (number - 1) * size
        following = f"{self.url}/v2/repositories/ai/?page={number + 1}&page_size={size}&ordering=pull_count"
        more = start + size < len(ordered)
        return {"count": len(ordered), "next": following if more else None, "results": ordered[start : start + size]}

    def _found(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = query.get("search", "").lower()
        found = [model for model in self.models if wanted in str(model.get("id", "")).lower()]
        found.sort(key=lambda model: -(model.get("downloads") or 0))
        return found[: int(query["limit"])]


@contextmanager
def search_hubs() -> Iterator[SearchHubs]:
    """Run both."""
    hubs = SearchHubs()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                hubs.requests.append(self.path)
                hubs.headers.append(dict(self.headers))
                hubs.at_once += 1
                hubs.most_at_once = max(hubs.most_at_once, hubs.at_once)
            try:
                status, headers, body = hubs.reply(self.path)
            finally:
                with lock:
                    hubs.at_once -= 1
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client has left

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hubs.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hubs
    finally:
        for held in hubs.replies.values():
            if isinstance(held, threading.Event):
                held.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _json(document: object, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()
