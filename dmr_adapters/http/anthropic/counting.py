"""How many tokens a chat has for an engine, told by its own template and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmr_adapters.http.inference.asking import ask_engine
from dmr_core.domain.capability import TokenCounter
from dmr_core.errors import UpstreamError
from dmr_core.ports.transport import Endpoint, Transport

__all__ = ["count_tokens"]


async def count_tokens(
    transport: Transport, endpoint: Endpoint, chat: Mapping[str, Any], counter: TokenCounter | None
) -> int:
    """The tokens of ``chat``'s prompt. An engine without a ``counter`` reads the prompt and generates one token.

    Raises:
        InvalidRequestError: the engine refuses the chat; says why.
        UpstreamError: it failed.
    """
    if counter is TokenCounter.TEMPLATE:
        prompt = await ask_engine(transport, endpoint, "/apply-template", chat)
        asked = {"content": prompt.get("prompt"), "add_special": True, "parse_special": True}
        tokens = (await ask_engine(transport, endpoint, "/tokenize", asked)).get("tokens")
        return len(tokens) if isinstance(tokens, list) else _unknown()
    if counter is TokenCounter.TOKENIZE:
        kept = {key: chat[key] for key in ("model", "messages", "tools", "chat_template_kwargs") if key in chat}
        count = (await ask_engine(transport, endpoint, "/tokenize", kept)).get("count")
    else:
        one = {**chat, "max_tokens": 1, "stream": False}
        usage = (await ask_engine(transport, endpoint, "/v1/chat/completions", one)).get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else _unknown()


def _unknown() -> int:
    raise UpstreamError("the engine does not tell how many tokens there are")
