"""What ``POST /engines/_configure`` is sent."""

from __future__ import annotations

from typing import Any, Final

import attrs

from dmr_adapters.http.rest_json import decode
from dmr_core.domain.engine import EngineMode
from dmr_core.domain.flags import split
from dmr_core.errors import InvalidConfigurationError, InvalidRequestError

__all__ = ["ConfigureBody"]

_MODE_FLAGS: Final = (
    (frozenset({"--embeddings", "--embedding"}), EngineMode.EMBEDDING),
    (frozenset({"--reranking", "--rerank"}), EngineMode.RERANKING),
)


@attrs.frozen(kw_only=True)
class ConfigureBody:
    """What is to be configured, and ``change``, a merge patch of its settings.

    ``reset`` asks to forget settings instead: those of ``only``, or of every mode where none was named.
    """

    model: str
    mode: EngineMode
    change: dict[str, Any]
    reset: bool = False
    only: EngineMode | None = None

    @property
    def draft(self) -> str:
        """The draft model it names, if any."""
        speculative = self.change.get("speculative")
        name = speculative.get("draft_model") if isinstance(speculative, dict) else None
        return name if isinstance(name, str) else ""

    @classmethod
    def read(cls, body: bytes) -> ConfigureBody:
        """Read a request body. Mixed hyphens and underscores are the wire's own.

        Raises:
            InvalidRequestError: it is no JSON object, names no model, or a field has the wrong type.
            InvalidConfigurationError: there is no such mode, or a flag asks for another.
        """
        document: dict[str, Any] = decode(body, dict[str, Any])
        model, mode = document.pop("model", None), document.pop("mode", None)
        raw, reset = document.pop("raw-runtime-flags", None), document.pop("reset", None)
        if not isinstance(model, str) or not model:
            raise InvalidRequestError("model is required", param="model")
        if not isinstance(mode, str | None) or not isinstance(raw, str | None):
            raise InvalidRequestError("invalid request body: mode and raw-runtime-flags are strings")
        if not isinstance(reset, bool | None):
            raise InvalidRequestError("invalid request body: reset is true or false", param="reset")
        if reset and (raw or document):
            other = next(iter(document), "raw-runtime-flags")
            raise InvalidRequestError(
                f"reset forgets every setting, and {other} sets one: send it afterwards, in a request of its own",
                param="reset",
            )
        if raw and not document.get("runtime-flags"):
            document["runtime-flags"] = list(split(raw))
        flags = document.get("runtime-flags")
        return cls(
            model=model,
            mode=_mode(mode, flags if isinstance(flags, list) else []),
            change=document,
            reset=bool(reset),
            only=EngineMode.parse(mode) if mode else None,
        )


def _mode(said: str | None, flags: list[Any]) -> EngineMode:
    """The mode asked for, or the one the flags imply.

    Raises:
        InvalidConfigurationError: there is no such mode, or a flag asks for another.
    """
    words = {flag for flag in flags if isinstance(flag, str)}
    implied: EngineMode | None = None
    for names, mode in _MODE_FLAGS:
        implied = mode if names & words else implied
    if not said:
        return implied or EngineMode.COMPLETION
    asked = EngineMode.parse(said)
    # Reranking needs embeddings, and says so with the same flag.
    if implied not in {None, asked} and (implied, asked) != (EngineMode.EMBEDDING, EngineMode.RERANKING):
        raise InvalidConfigurationError(
            f"mode {asked.value!r} contradicts the runtime flags, which ask for {implied!s}: leave one of them out",
            param="mode",
        )
    return asked
