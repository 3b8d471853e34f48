"""How many tokens a chat has for an engine, told by its own template and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from dmr_adapters.http.inference.relay import read_all
from dmr_core.domain.capability import TokenCounter
from dmr_core.errors import InvalidRequestError, UpstreamError
from dmr_core.ports.transport import Endpoint, Transport, UpstreamRequest

__all__ = ["count_tokens"]

_HEADERS: Final = ((b"host", b"localhost"), (b"content-type", b"application/json"))
_MAX_ANSWER: Final = 64 * 1024 * 1024


async def count_tokens(
    transport: Transport, endpoint: Endpoint, chat: Mapping[str, Any], counter: TokenCounter | None
) -> int:
    """The tokens of ``chat``'s prompt. An engine without a ``counter`` reads the prompt and generates one token.

    Raises:
        InvalidRequestError: the engine refuses the chat; says why.
        UpstreamError: it failed.
    """
    if counter is TokenCounter.TEMPLATE:
        prompt = await _ask(transport, endpoint, "/apply-template", chat)
        asked = {"content": prompt.get("prompt"), "add_special": True, "parse_special": True}
        tokens = (await _ask(transport, endpoint, "/tokenize", asked)).get("tokens")
        return len(tokens) if isinstance(tokens, list) else _unknown()
    if counter is TokenCounter.TOKENIZE:
        kept = {key: chat[key] for key in ("model", "messages", "tools", "chat_template_kwargs") if key in chat}
        count = (await _ask(transport, endpoint, "/tokenize", kept)).get("count")
    else:
        one = {**chat, "max_tokens": 1, "stream": False}
        usage = (await _ask(transport, endpoint, "/v1/chat/completions", one)).get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else _unknown()


async def _ask(transport: Transport, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    response = await transport.send(endpoint, UpstreamRequest("POST", path, _HEADERS, orjson.dumps(body)))
    try:
        content = await read_all(response, limit=_MAX_ANSWER)
    finally:
        await response.aclose()
    try:
        value = orjson.loads(content)
    except (ValueError, RecursionError) as exc:
        raise UpstreamError(f"the engine's answer on {path} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise UpstreamError(f"the engine's answer on {path} is no object")
    if response.status >= 400:
        error = value.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        text = str(message or f"the engine answered with status {response.status}")[:2000]
        raise InvalidRequestError(text) if response.status < 500 else UpstreamError(text)
    return value


def _unknown() -> int:
    raise UpstreamError("the engine does not tell how many tokens there are")
