"""One request at a time, and everything that can be told about its answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import attrs

__all__ = ["Answer", "Client", "Stream", "chat_body", "embedding_body"]

LIMIT: Final = 240.0
"""Seconds a request may take: longer than the queue's limit, a load and an answer on a busy machine together."""

_HEAD_LIMIT: Final = 30.0


@attrs.frozen(kw_only=True)
class Answer:
    """An answer that came as a whole; ``failure`` says why there was none."""

    status: int = 0
    body: bytes = b""
    retry_after: str | None = None
    failure: str = ""

    @property
    def document(self) -> Any:
        """The body as JSON; ``None`` if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def error(self) -> tuple[str, str]:
        """Code and message of an error, in either shape."""
        return error_of(self.document) or ("", self.body.decode(errors="replace"))


@attrs.define
class Stream:
    """A stream of events as far as it came. ``ended`` says how: ``done``, ``error``, ``left``,
    ``cut`` (neither of these), or ``overrun`` (there was more after its end).
    """

    status: int = 0
    retry_after: str | None = None
    text: str = ""
    events: int = 0
    models: set[str] = attrs.field(factory=set)
    ended: str = "cut"
    code: str = ""
    message: str = ""


def error_of(document: Any) -> tuple[str, str] | None:
    """Code and message of an OpenAI-shaped error; ``None`` if it is none."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return None
    return str(error.get("code") or error.get("type") or ""), str(error.get("message"))


def chat_body(model: str, question: str, *, stream: bool = False) -> dict[str, Any]:
    """A chat of one question, answered greedily."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "stream": stream, "max_tokens": 200}


def embedding_body(model: str, text: str) -> dict[str, Any]:
    """A text to embed."""
    return {"model": model, "input": text}


class Client:
    """Two ways to connect: anew for every request, and on connections that are kept for as long as they are fresh."""

    def __init__(self, url: str) -> None:
        self._url = url
        timeout = aiohttp.ClientTimeout(total=LIMIT)
        # Kept for less time than the service keeps them, or a request now and then would meet a closing connection.
        kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0)
        anew = aiohttp.TCPConnector(limit=0, force_close=True)
        self._sessions = {
            True: aiohttp.ClientSession(connector=kept, timeout=timeout),
            False: aiohttp.ClientSession(connector=anew, timeout=timeout),
        }

    async def aclose(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kept: bool = False,
        headers: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> Answer:
        """An answer as a whole, or why there was none. Raises nothing but its cancellation."""
        try:
            async with self._request(method, path, body, kept=kept, headers=headers, limit=limit) as response:
                content = await response.read()
                return Answer(status=response.status, body=content, retry_after=response.headers.get("retry-after"))
        except TimeoutError:
            return Answer(failure=f"no answer within {limit:g} s")
        except (aiohttp.ClientError, OSError) as exc:
            return Answer(failure=f"{type(exc).__name__}: {exc}")

    async def stream(self, path: str, body: object, *, kept: bool = False, leave_after: int | None = None) -> Stream:
        """A stream to its end, or closed by us after so many events. Raises nothing but its cancellation."""
        told = Stream()
        try:
            async with self._request("POST", path, body, kept=kept) as response:
                told.status, told.retry_after = response.status, response.headers.get("retry-after")
                if response.status != 200:
                    told.code, told.message = Answer(body=await response.read()).error
                    told.ended = "error"
                    return told
                async for data in _events(response.content):
                    told.events += 1
                    _take(told, data)
                    if told.ended == "cut" and leave_after is not None and told.events >= leave_after:
                        told.ended = "left"
                        response.close()
                        return told
        except TimeoutError:
            told.message = f"no end within {LIMIT:g} s"
        except (aiohttp.ClientError, OSError) as exc:
            told.message = f"{type(exc).__name__}: {exc}"
        return told

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: object,
        *,
        kept: bool,
        headers: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        content = None if body is None else json.dumps(body).encode()
        head = {"content-type": "application/json", **(headers or {})}
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_HEAD_LIMIT)
        async with self._sessions[kept].request(
            method, self._url + path, data=content, headers=head, timeout=timeout
        ) as response:
            yield response


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """The data of server-sent events, as they come; what is cut off in the middle of one is not given."""
    while True:
        event = await content.readuntil(b"\n\n")
        if not event.endswith(b"\n\n"):
            return
        for part in event.decode().splitlines():
            if part.startswith("data:"):
                yield part.removeprefix("data:").strip()


def _take(told: Stream, data: str) -> None:
    if told.ended != "cut":
        told.ended, told.message = "overrun", f"an event after the end: {data[:200]}"
    elif data == "[DONE]":
        told.ended = "done"
    else:
        document = json.loads(data)
        error = error_of(document)
        if error is not None:
            told.ended, (told.code, told.message) = "error", error
            return
        told.models.add(str(document.get("model")))
        for choice in document.get("choices") or ():
            told.text += (choice.get("delta") or {}).get("content") or ""
