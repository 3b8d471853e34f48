"""A request in Anthropic's dialect, on its way to an engine."""

from __future__ import annotations

from typing import Final

import attrs
import orjson

from dmr_adapters.http.anthropic.counting import count_tokens
from dmr_adapters.http.anthropic.relay import NativeRelay, TranslatingRelay
from dmr_adapters.http.inference.body import Body
from dmr_adapters.http.inference.exchange import Exchange
from dmr_core.domain.capability import TokenCounter
from dmr_core.services.scheduling.lease import Lease

__all__ = ["MessagesExchange"]

_JSON: Final = (b"content-type", b"application/json")


@attrs.define(eq=False)
class MessagesExchange(Exchange):
    """One message. With ``counter`` known (``counting``) it is the tokens of a prompt that are asked for."""

    counting: bool = False
    counter: TokenCounter | None = None

    def natively(self) -> None:
        """The engine speaks the dialect."""
        self.relay = NativeRelay(self.relay.send, self.relay.clock, self.relay.headers)

    def translated(self) -> None:
        """The engine speaks OpenAI's."""
        relay = self.relay
        self.relay = TranslatingRelay(relay.send, relay.clock, relay.headers, model=self.name)
        self.route = attrs.evolve(self.route, upstream="/v1/chat/completions")

    def demand(self, body: Body) -> None:
        """See :class:`Exchange`."""
        from dmr_adapters.http.strictness.check import checker  # noqa: PLC0415 - few requests are strict
        from dmr_adapters.http.strictness.demand import messages_demand  # noqa: PLC0415 - as above
        from dmr_adapters.http.strictness.findings import messages_cases  # noqa: PLC0415 - as above

        demanded = messages_demand(body.fields)
        if demanded is not None:
            self.relay.check = checker(demanded, messages_cases)

    async def converse(self, lease: Lease, body: bytes) -> None:
        """See :class:`Exchange`."""
        if not self.counting:
            await super().converse(lease, body)
            return
        tokens = await count_tokens(self.services.transport, lease.endpoint, orjson.loads(body), self.counter)
        self.note_time()
        await self.relay.whole(200, [*self.relay.headers, _JSON], orjson.dumps({"input_tokens": tokens}))
