"""Chat completions: the request, and the answer piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dmr_cli.client.api import Api, expect
from dmr_cli.client.errors import ClientError, ConnectionLostError
from dmr_cli.client.nim import is_nim, load_headers
from dmr_cli.client.transport import Response

__all__ = ["Message", "Piece", "complete", "preload", "stream"]

_PATH: Final = "/engines/v1/chat/completions"
_FIELDS: Final = (b"event:", b"id:", b"retry:", b":")

Message = Mapping[str, str]


class Piece(NamedTuple):
    """Some text of an answer; ``reasoning`` is what a model thinks before it answers."""

    text: str
    reasoning: bool = False


def preload(api: Api, model: str) -> None:
    """Have the service load ``model`` without asking it anything."""
    body = {"model": model, "messages": [], "stream": False}
    with _open(api, model, body, {"X-Preload-Only": "true"}) as response:
        expect(response)
        response.read()


def complete(api: Api, model: str, messages: Sequence[Message], settings: Mapping[str, float]) -> Any:
    """Ask once and wait; the whole answer as the service gave it."""
    body = {"model": model, "messages": messages, "stream": False, **settings}
    with _open(api, model, body, {}) as response:
        expect(response)
        return api.decode(response, f"POST {_PATH}")


def stream(
    api: Api,
    model: str,
    messages: Sequence[Message],
    settings: Mapping[str, float],
    notice: Callable[[str], None],
) -> Generator[Piece, None, None]:
    """Ask, and yield the answer as it is made. Closing the iterator makes the service stop.

    ``notice`` is told what a service says in plain text before an answer (it may install an engine).

    Raises:
        ClientError: the service refused, or failed on the way.
        ConnectionLostError: the answer was cut off.
    """
    body = {"model": model, "messages": messages, "stream": True, **settings}
    with _open(api, model, body, {"Accept": "text/event-stream, application/json"}) as response:
        expect(response)
        finished = False
        for document in _documents(response.lines(), notice):
            if document is None:
                return
            choice = _first_choice(document)
            finished = finished or bool(choice.get("finish_reason")) or "message" in choice
            yield from _pieces(choice)
        if not finished:
            raise ConnectionLostError("the answer was cut off")


def _open(api: Api, model: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """Send a request that may start the engine of ``model``; where that may take long, what it says is shown."""
    headers = {**headers, **load_headers(api.endpoint, model)}
    from dmr_cli.client.waiting import VLLM, told_by  # noqa: PLC0415 - only chats need it

    # Which engine a model of the store gets is the service's choice; of those there are, vLLM takes minutes.
    with told_by(api, "nim" if is_nim(model) else VLLM):
        return api.open("POST", _PATH, json_body=body, headers=headers)


def _documents(lines: Iterator[bytes], notice: Callable[[str], None]) -> Iterator[dict[str, Any] | None]:
    """The JSON documents of a stream of events, ``None`` for its end; also a lone one that is no event."""
    for line in lines:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                yield None
                return
            yield _document(data)
        elif line.startswith(b"{"):
            yield _document(line + b"\n".join(lines))
        elif line.strip() and not line.startswith(_FIELDS):
            notice(line.decode("utf-8", "replace"))


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ClientError(
            f"the service sent an event that is not JSON: {data[:200].decode('utf-8', 'replace')}"
        ) from error
    if not isinstance(document, dict):
        raise ClientError("the service sent an event that is not an object")
    failure = document.get("error") or (document if document.get("type") == "error" else None)
    if failure:
        message = failure.get("message") if isinstance(failure, dict) else failure
        raise ClientError(str(message or "the engine failed"))
    return document


def _first_choice(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    return choice if isinstance(choice, dict) else {}


def _pieces(choice: dict[str, Any]) -> Iterator[Piece]:
    part = choice.get("delta") or choice.get("message") or {}
    for field, reasoning in (("reasoning_content", True), ("content", False)):
        text = part.get(field)
        if isinstance(text, str) and text:
            yield Piece(text, reasoning)
