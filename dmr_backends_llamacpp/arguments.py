"""The argument vector of llama.cpp's server: pure, so that a table can test it.

Order and flags are the reference's, so that an operator finds the process they know; what a client
may add is checked against an allow-list first, because these words become flags of a process on the
host (the reference was once made to write files this way).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dmr_backends_llamacpp.allowed_flags import ALLOWED_FLAGS
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest

__all__ = ["DEFAULT_ARGUMENTS", "base_arguments", "check_config", "server_arguments"]

DEFAULT_ARGUMENTS: Final = ("-ngl", "999", "--metrics")
_OURS: Final = frozenset(
    {"-m", "--model", "--host", "--port", "-a", "--alias", "--embeddings", "--embedding", "-mm", "--mmproj"}
)
_SECTION: Final = "llamacpp"


def base_arguments(text: str | None) -> tuple[str, ...]:
    """What ``LLAMA_ARGS`` says, which replaces the defaults; either quote toggles quoting, as in the reference.

    Raises:
        InvalidConfigurationError: it sets what the runner itself must set.
    """
    if text is None or not text.strip():
        return DEFAULT_ARGUMENTS
    words = _split(text)
    for word in words:
        name = word.partition("=")[0]
        if name in _OURS:
            raise InvalidConfigurationError(
                f"LLAMA_ARGS cannot override {name}, which is controlled by the model runner"
            )
    return words


def check_config(config: EngineConfig) -> None:
    """Refuse what this engine cannot honour or must not be told.

    Raises:
        InvalidConfigurationError: names the flag or setting.
    """
    foreign = sorted(set(config.sections) - {_SECTION})
    if foreign:
        raise InvalidConfigurationError(f"settings for {foreign[0]!r} do not apply to the llama.cpp backend")
    _reasoning_budget(config.sections.get(_SECTION, {}))
    for word in config.runtime_flags:
        name, equals, value = word.partition("=")
        if "/" in word or "\\" in word:
            raise InvalidConfigurationError(
                f"invalid runtime flag {word!r}: paths are not allowed (contains '/' or '\\')", param="runtime-flags"
            )
        if _is_flag(word) and name not in ALLOWED_FLAGS:
            raise InvalidConfigurationError(
                f'runtime flag "{name}" is not allowed for backend "llama.cpp"', param="runtime-flags"
            )
        if equals and value.startswith("-") and not value[1:2].isdigit():
            raise InvalidConfigurationError(
                f"invalid flag \"{word}\": value cannot start with '-' unless followed by a digit",
                param="runtime-flags",
            )


def server_arguments(request: LaunchRequest, base: tuple[str, ...], socket: Path) -> tuple[str, ...]:
    """Everything after the program's name.

    Raises:
        UnsupportedFormatError: the model has no GGUF weights, or the mode is not one of llama.cpp's.
    """
    bundle, config = request.bundle, request.config
    if bundle.gguf is None:
        raise UnsupportedFormatError(f"GGUF file required by llama.cpp backend: {request.alias!r} has none")
    words = [*base, "--model", str(bundle.gguf), "--host", str(socket), "--alias", request.alias]
    match request.mode:
        case EngineMode.COMPLETION:
            if bundle.chat_template is not None:
                words += ["--chat-template-file", str(bundle.chat_template)]
        case EngineMode.EMBEDDING:
            words += ["--embeddings", *_pooling(request)]
        case EngineMode.RERANKING:
            words += ["--embeddings", "--reranking"]
        case _:
            raise UnsupportedFormatError(f'unsupported backend mode "{request.mode}"')
    budget = _reasoning_budget(config.sections.get(_SECTION, {}))
    if budget is not None:
        words += ["--reasoning-budget", str(budget)]
    if config.context_size is not None and (config.context_size == -1 or config.context_size > 0):
        # -1 is "as much as the model was trained for", which llama-server spells 0.
        words += ["--ctx-size", str(max(0, config.context_size))]
    for word in config.runtime_flags:
        name, equals, value = word.partition("=")
        words += [name, value] if equals and _is_flag(word) else [word]
    if bundle.mmproj is not None:
        words += ["--mmproj", str(bundle.mmproj)]
    words += ["--jinja"]
    if request.draft is not None and request.draft.gguf is not None and config.speculative is not None:
        words += ["--model-draft", str(request.draft.gguf)]
        if config.speculative.num_tokens:
            words += ["--spec-draft-n-max", str(config.speculative.num_tokens)]
        if config.speculative.min_acceptance_rate:
            words += ["--spec-draft-p-min", f"{config.speculative.min_acceptance_rate:.2f}"]
    return tuple(words)


def _pooling(request: LaunchRequest) -> tuple[str, ...]:
    """A chat model does not say how to pool its tokens, and llama.cpp then refuses to embed: take their mean."""
    told = any(key.endswith(".pooling_type") for key in request.model.config.gguf)
    chosen = any(word.partition("=")[0] == "--pooling" for word in request.config.runtime_flags)
    return () if told or chosen else ("--pooling", "mean")


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


def _reasoning_budget(section: Mapping[str, Any]) -> int | None:
    unknown = sorted(set(section) - {"reasoning-budget"})
    if unknown:
        raise InvalidConfigurationError(f"unknown setting llamacpp.{unknown[0]}: there is only reasoning-budget")
    budget = section.get("reasoning-budget")
    if budget is None:
        return None
    if not isinstance(budget, int) or isinstance(budget, bool) or not -1 <= budget < 2**31:
        raise InvalidConfigurationError(
            f"llamacpp.reasoning-budget is {budget!r}: use -1 for unlimited, 0 for none, or a number of tokens"
        )
    return budget


def _split(text: str) -> tuple[str, ...]:
    words: list[str] = []
    word, quoted, begun = "", False, False
    for character in text:
        if character in "'\"":
            quoted, begun = not quoted, True
        elif character.isspace() and not quoted:
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + character, True
    if quoted:
        raise InvalidConfigurationError("invalid LLAMA_ARGS: a quote is never closed")
    return (*words, word) if begun else tuple(words)
