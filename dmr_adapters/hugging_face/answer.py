"""What a refusal of the Hub means.

The Hub says it in the header ``X-Error-Code`` (huggingface_hub, ``hf_raise_for_status``). To somebody
without a token it answers 401 both for what is private and for what does not exist.
"""

from __future__ import annotations

import re
from typing import Final

import aiohttp
import attrs

from dmr_adapters.hugging_face.token import Token
from dmr_adapters.registry.retry import TRANSIENT_STATUSES, TransientAnswerError, seconds_to_wait
from dmr_core.domain.naming import MAIN_REVISION
from dmr_core.errors import DmrError, RegistryError, RemoteModelNotFoundError, UnauthorizedError

__all__ = ["Asked", "condition"]

_SHOWN: Final = 300
_BAD_TOKEN: Final = "invalid credentials"  # noqa: S105 - the words of a message
# IETF draft-ietf-httpapi-ratelimit-headers: `"api";r=0;t=280`, seconds until the window ends.
_WINDOW: Final = re.compile(r";\s*t=([0-9]{1,6})(?:\s*[;,]|\s*$)")


@attrs.frozen(kw_only=True)
class Asked:
    """What a request was about. ``address`` is where people read about the repository."""

    repository: str
    revision: str = MAIN_REVISION
    path: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        """The repository as a reference."""
        return f"hf.co/{self.repository}" + (f"@{self.revision}" if self.revision != MAIN_REVISION else "")

    def __str__(self) -> str:
        return f"a request for {self.path!r} of {self.name!r}" if self.path else f"a request for {self.name!r}"


def condition(answer: aiohttp.ClientResponse, asked: Asked, token: Token | None, *, own: bool, now: float) -> DmrError:
    """The condition an unwelcome ``answer`` stands for; ``own``: it is the Hub's, not of a host it sent us to."""
    status, said = answer.status, _said(answer) if own else ""
    code = answer.headers.get("X-Error-Code", "") if own else ""
    known = _by_code(code, asked, token) if status < 500 else None
    if known is None and own and status in {401, 403}:
        known = _refused(status, said, asked, token)
    if known is None and own and status == 404:
        known = RemoteModelNotFoundError(asked.name, asked.path and f"it has no file {asked.path!r}")
    if known is not None:
        return known
    message = f"{answer.url.host!r} answered {status} to {asked}" + (f": {said}" if said else "")
    if status not in TRANSIENT_STATUSES:
        return RegistryError(message)
    wait = seconds_to_wait(answer.headers.get("Retry-After"), now)
    if wait is None and status == 429 and (window := _WINDOW.search(answer.headers.get("RateLimit", ""))):
        wait = float(window[1])
    if status == 429:
        when = f"in {wait:.0f} s" if wait is not None else "later"
        message += f"; too many requests were made: try again {when}" + ("" if token else ", or set HF_TOKEN")
    return TransientAnswerError(message, retry_after=wait)


def _by_code(code: str, asked: Asked, token: Token | None) -> DmrError | None:
    match code:
        case "GatedRepo":
            who = f"the account of the token from {token.origin}" if token else "an account"
            then = "" if token else ", and set HF_TOKEN to a token of that account"
            return UnauthorizedError(f"{asked.name!r} is gated: accept its terms at {asked.address} with {who}{then}")
        case "RepoNotFound":
            hint = (
                f"or it is private, and the token from {token.origin} may not read it"
                if token
                else "or it is private: then set HF_TOKEN to a token that may read it"
            )
            return RemoteModelNotFoundError(
                f"hf.co/{asked.repository}",
                f"Hugging Face, where upper and lower case differ, has no such repository, {hint}",
            )
        case "RevisionNotFound":
            return RemoteModelNotFoundError(
                asked.name, f"the repository has no branch, tag or commit {asked.revision!r}"
            )
        case "EntryNotFound":
            return RemoteModelNotFoundError(asked.name, f"it has no file {asked.path!r}")
        case _:
            return None


def _refused(status: int, said: str, asked: Asked, token: Token | None) -> UnauthorizedError:
    tail = f" ({said})" if said else ""
    if token is None:
        return UnauthorizedError(
            f"access to {asked.name!r} denied: it does not exist, or needs HF_TOKEN to be set to a token that may"
            f" read it{tail}"
        )
    if status == 401 or _BAD_TOKEN in said.lower():
        return UnauthorizedError(
            f"Hugging Face refuses the token from {token.origin}: make a new one, or leave it out for what is public{tail}"
        )
    return UnauthorizedError(f"the token from {token.origin} may not read {asked.name!r}{tail}")


def _said(answer: aiohttp.ClientResponse) -> str:
    """The Hub's own words, printable: they end up in logs and terminals."""
    message = answer.headers.get("X-Error-Message", "")
    return "".join(character for character in message if character.isprintable())[:_SHOWN]
