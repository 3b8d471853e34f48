"""What was said before: the turns a response goes on from."""

from __future__ import annotations

from typing import Any, Final

import orjson

from dmr_core.errors import BodyTooLargeError, InvalidRequestError, PreviousResponseError
from dmr_core.ports.response_store import KeptResponse, ResponseStore

__all__ = ["earlier_items", "shortened", "turn_items"]

Item = dict[str, Any]
_PARAM: Final = "previous_response_id"
_ENDED: Final = frozenset({"completed", "incomplete"})


async def earlier_items(store: ResponseStore, previous_id: str, max_bytes: int) -> list[Item]:
    """Everything that was said until a response, and the response; the oldest first.

    Raises:
        PreviousResponseError: it, or one before it, is not kept, or did not come to an end.
        InvalidRequestError: it is more than ``max_bytes``.
        StoreUnwritableError: nothing can be read.
    """
    try:
        chain = await store.chain(previous_id, max_bytes)
    except BodyTooLargeError as exc:
        raise InvalidRequestError(
            f"the conversation before this turn is longer than {max_bytes} bytes: begin a new one", param=_PARAM
        ) from exc
    if not chain:
        raise PreviousResponseError(
            f"{_PARAM} {previous_id[:100]!r} was not found: it was not stored, was deleted, or is too old; "
            "send the conversation as input",
            param=_PARAM,
        )
    if chain[-1].previous_id is not None:
        raise PreviousResponseError(
            f"{_PARAM} {previous_id[:100]!r} goes back to {chain[-1].previous_id!r}, which was deleted or is too old; "
            "send the conversation as input",
            param=_PARAM,
        )
    status = orjson.loads(chain[0].document).get("status")
    if status not in _ENDED:
        raise PreviousResponseError(
            f"{_PARAM} {previous_id[:100]!r} is {status}: only a response that ended can be gone on from", param=_PARAM
        )
    return [item for kept in reversed(chain) for item in (*turn_items(kept), *orjson.loads(kept.document)["output"])]


def turn_items(kept: KeptResponse) -> list[Item]:
    """The input of one turn."""
    items: list[Item] = orjson.loads(kept.input)
    return items


def shortened(messages: list[Item], share: float) -> list[Item] | None:
    """The messages without the oldest, so that about ``share`` of the text is left; ``None`` if nothing can go.

    Instructions stay, and so does everything from the last user's message on. What is left of the conversation begins
    with a user's message: an answer to what is gone, or the result of a call that is gone, would say nothing.
    """
    instructions = [message for message in messages if message["role"] == "system"]
    said = [message for message in messages if message["role"] != "system"]
    starts = [number for number, message in enumerate(said) if message["role"] == "user"][1:]
    if not starts:
        return None
    sizes = [len(orjson.dumps(message)) for message in said]
    allowed = share * sum(sizes)
    begin = next((start for start in starts if sum(sizes[start:]) <= allowed), starts[-1])
    return [*instructions, *said[begin:]]
