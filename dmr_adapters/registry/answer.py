"""What a registry's refusal means: by status and by the codes of OCI error documents, never by words.

OCI distribution-spec, "Error Codes": ``{"errors": [{"code", "message", "detail"}]}``.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import attrs
import orjson

from dmr_adapters.registry.client import read_bounded
from dmr_adapters.registry.endpoint import Endpoint, origin
from dmr_adapters.registry.retry import TRANSIENT_STATUSES, TransientAnswerError, seconds_to_wait
from dmr_core.domain.reference import Reference
from dmr_core.errors import DmrError, RegistryError, RemoteModelNotFoundError, UnauthorizedError

__all__ = ["ErrorReader"]

_ERROR_BODY: Final = 64 * 1024
_SHOWN: Final = 300


@attrs.frozen(kw_only=True)
class ErrorReader:
    """Turns an unwelcome answer into a condition. ``limit`` bounds reading its body, in seconds."""

    endpoint: Endpoint
    reference: Reference
    limit: float

    async def condition(
        self, answer: aiohttp.ClientResponse, what: str, *, now: float, names_model: bool = False
    ) -> DmrError:
        """The condition ``answer`` stands for; ``what`` says what was asked, for the message.

        Only the registry itself is quoted: what a host it redirected to writes may come from anywhere.
        ``names_model``: a 404 then means that the model does not exist.
        """
        own = origin(answer.url) == self.endpoint.origin
        said = await self._said(answer) if own else ""
        tail = f": {said}" if said else ""
        host = self.endpoint.registry if own else answer.url.host
        status = answer.status
        if status == 404 and own and names_model:
            return RemoteModelNotFoundError(str(self.reference), said)
        if status in {401, 403} and own:
            return self.unauthorized(said)
        message = f"{host!r} answered {status} to {what}{tail}"
        if status in TRANSIENT_STATUSES:
            wait = seconds_to_wait(answer.headers.get("Retry-After"), now)
            return TransientAnswerError(message, retry_after=wait)
        return RegistryError(message)

    def unauthorized(self, said: str = "") -> UnauthorizedError:
        """The registry lets us do nothing there. It does not tell a missing repository from a closed one."""
        tail = f" ({said})" if said else ""
        return UnauthorizedError(
            f"access to {self.reference.name!r} denied: it does not exist, or needs"
            f" 'docker login {self.endpoint.registry}' with an account that may use it{tail}"
        )

    async def _said(self, answer: aiohttp.ClientResponse) -> str:
        try:
            content = await read_bounded(answer, _ERROR_BODY, self.limit)
            errors = orjson.loads(content or b"null")["errors"]
            said = "; ".join(filter(None, map(_line, errors)))
        except (DmrError, ValueError, TypeError, KeyError):
            return ""  # proxies and load balancers answer in HTML, or break off
        return said[:_SHOWN]


def _line(error: Any) -> str:
    """``CODE: message`` in printable characters: it ends up in logs and terminals."""
    parts = (
        [part for part in (error.get("code"), error.get("message")) if isinstance(part, str) and part]
        if isinstance(error, dict)
        else []
    )
    return "".join(character for character in ": ".join(parts) if character.isprintable())
