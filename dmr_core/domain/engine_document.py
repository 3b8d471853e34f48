"""Engine settings as a JSON document: written, read, and merged.

Keys are the reference's, hyphens and underscores mixed as they are on its wire, and ``max-concurrency`` and
``require``, which are ours.
A document changes another by RFC 7396 (JSON Merge Patch): what is absent stays, ``null`` removes, objects merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dmr_core.domain.acceleration import GpuRequirement
from dmr_core.domain.engine import EngineConfig, Speculative
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError

__all__ = ["SECTIONS", "engine_document", "merged", "read_engine_document"]

SECTIONS: Final = ("vllm", "llamacpp")
"""Keys of settings that only one backend understands, of those the reference has; a plugin may have one of its own."""

_KNOWN: Final = frozenset({"context-size", "runtime-flags", "speculative", "keep_alive", "max-concurrency", "require"})
_SPECULATIVE: Final = frozenset({"draft_model", "num_tokens", "min_acceptance_rate"})
_MOST: Final = 2**31 - 1


def engine_document(config: EngineConfig) -> dict[str, Any]:
    """Settings as JSON; what is not set is absent."""
    document: dict[str, Any] = {}
    if config.context_size is not None:
        document["context-size"] = config.context_size
    if config.runtime_flags:
        document["runtime-flags"] = list(config.runtime_flags)
    if config.speculative is not None:
        speculative = {
            "draft_model": config.speculative.draft_model,
            "num_tokens": config.speculative.num_tokens,
            "min_acceptance_rate": config.speculative.min_acceptance_rate,
        }
        document["speculative"] = {name: value for name, value in speculative.items() if value is not None}
    if config.keep_alive is not None:
        document["keep_alive"] = str(config.keep_alive)
    if config.concurrency is not None:
        document["max-concurrency"] = config.concurrency
    if config.require is not None:
        document["require"] = config.require.value
    document.update({name: dict(section) for name, section in config.sections.items()})
    return document


def read_engine_document(document: Mapping[str, Any]) -> EngineConfig:
    """Settings from JSON that anybody may have sent.

    Raises:
        InvalidConfigurationError: names the field, and what it may be.
    """
    size = _integer(document, "context-size", -1)
    if size == 0:
        raise _wrong("context-size", 0, f"use 1 to {_MOST}, or -1 for the model's own")
    flags = document.get("runtime-flags")
    if flags is not None and not (isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)):
        raise _wrong("runtime-flags", flags, "use a list of strings")
    keep_alive = document.get("keep_alive")
    if keep_alive is not None and not isinstance(keep_alive, str):
        raise _wrong("keep_alive", keep_alive, "use a duration as a string, such as '10m', '0' or '-1'")
    return EngineConfig(
        context_size=size,
        runtime_flags=tuple(flags or ()),
        speculative=_speculative(document.get("speculative")),
        keep_alive=KeepAlive.parse(keep_alive) if keep_alive else None,
        concurrency=_integer(document, "max-concurrency", 1),
        require=None if document.get("require") is None else GpuRequirement.parse(document["require"]),
        sections=_sections(document),
    )


def merged(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` changed by ``change`` (RFC 7396, section 2)."""
    result = dict(document)
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _speculative(value: Any) -> Speculative | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong("speculative", value, "use an object with draft_model, num_tokens and min_acceptance_rate")
    unknown = sorted(set(value) - _SPECULATIVE)
    if unknown:
        raise _wrong(
            f"speculative.{unknown[0]}", value[unknown[0]], f"there are only {', '.join(sorted(_SPECULATIVE))}"
        )
    draft = value.get("draft_model")
    if not isinstance(draft, str | None):
        raise _wrong("speculative.draft_model", draft, "use the name of a model")
    rate = value.get("min_acceptance_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        raise _wrong("speculative.min_acceptance_rate", rate, "use a number from 0 to 1")
    tokens = _integer(value, "num_tokens", 0, "speculative.")
    return Speculative(draft_model=draft, num_tokens=tokens, min_acceptance_rate=rate) if draft else None


def _sections(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for name in document.keys() - _KNOWN:
        value = document[name]
        if not isinstance(value, Mapping):
            if name in SECTIONS and value is None:
                continue
            known = ", ".join(sorted(_KNOWN | set(SECTIONS)))
            raise InvalidConfigurationError(f"unknown setting {name!r}: there are {known}", param=name)
        if value:
            sections[name] = dict(value)
    return dict(sorted(sections.items()))


def _integer(document: Mapping[str, Any], name: str, least: int, prefix: str = "") -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
        shown = "1 to" if least == -1 else f"{least} to"
        tail = ", or -1 for the model's own" if least == -1 else ""
        raise _wrong(prefix + name, value, f"use {shown} {_MOST}{tail}")
    return value


def _wrong(name: str, value: Any, remedy: str) -> InvalidConfigurationError:
    return InvalidConfigurationError(f"{name} is {value!r:.100}: {remedy}", param=name)
