"""A request and its answer as they are shown to people: media and secrets taken out, streams folded."""

from __future__ import annotations

import json
from typing import Final

import attrs

from dmr_core.domain.engine import RunnerKey
from dmr_core.domain.redaction import redact_body, redact_json, redact_text
from dmr_core.domain.transcript import Transcript, fold

__all__ = ["Account", "Exchange", "account"]

_NO_ANSWER: Final = 408  # the reference's status for a request that was never answered


@attrs.frozen(kw_only=True)
class Exchange:
    """What was seen of a request and its answer; the bytes are as they went over the wire.

    ``at`` is nanoseconds since the epoch, ``seconds`` the time it took (0 while it is under way). ``status`` is 0 while it is under way and 499
    for a client that left before an answer. ``streamed`` answers are server-sent events. ``cut`` says that there were
    more bytes than were kept.
    """

    key: RunnerKey
    model: str
    url: str
    request: bytes
    response: tuple[bytes, ...]
    at: int
    status: int
    seconds: float
    user_agent: str = ""
    origin: str = ""
    request_id: str = ""
    method: str = "POST"
    streamed: bool = False
    cut: bool = False
    abandoned: bool = False

    @property
    def id(self) -> str:
        """A name for it, unique within a service."""
        return f"{self.key.model_id}_{self.at}"


@attrs.frozen(kw_only=True)
class Account:
    """An exchange as text: JSON where it was JSON. Never both ``response`` and ``error``; neither while it is under way."""

    status: int
    request: str
    response: str = ""
    error: str = ""
    user_agent: str = ""


def account(exchange: Exchange) -> Account:
    """``exchange`` for people to read. Takes up to some tenths of a second for megabytes; never fails."""
    status = _NO_ANSWER if exchange.status == 499 else exchange.status
    response = error = ""
    if exchange.status:
        body = b"".join(exchange.response).decode("utf-8", "replace")
        response, error = _streamed(body, status) if exchange.streamed else _whole(body, status)
        if exchange.abandoned and exchange.status == 499:
            response, error = "", _dumps({"error": "the client left before it was answered"})
    return Account(
        status=status,
        request=_encodable(redact_body(exchange.request.decode("utf-8", "replace"))),
        response=_encodable(response),
        error=_encodable(error),
        user_agent=redact_text(exchange.user_agent),
    )


def _streamed(body: str, status: int) -> tuple[str, str]:
    found: Transcript = fold(body)
    try:
        if found.error is not None:
            error = {"status_code": max(status, 400), **found.error}
            return "", _dumps(redact_json(error))
        if found.answer is not None:
            return _dumps(redact_json(found.answer)), ""
    except (RecursionError, ValueError):
        pass
    return redact_text(body), ""


def _whole(body: str, status: int) -> tuple[str, str]:
    text = redact_body(body)
    if status < 400:
        return text, ""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "", _dumps({"error": text.strip() or "unknown error"})
    return "", text


def _encodable(text: str) -> str:
    """JSON can name half a surrogate pair, which no encoding has."""
    return text.encode("utf-8", "replace").decode()


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
