"""The argument vector of llama.cpp's server: pure but for the files that ``LLAMA_ARGS`` names.

Everything is a use of a flag until the end, and a later use replaces an earlier one: the operator's arguments, what the
runner itself must set, the mode, typed settings, and last the raw flags of a client, which therefore win over typed
settings as they do in llama.cpp. Each flag is in the vector once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from dmr_backends_llamacpp.allowed_flags import CLIENT_FLAGS, CONTROLLED, EXITING, OPERATOR_FLAGS
from dmr_backends_llamacpp.server_flags import FlagError
from dmr_backends_llamacpp.server_flags import parse as parse_for_bundled
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.flags import ParsedFlag, latest, render
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest

__all__ = ["DEFAULT_ARGUMENTS", "base_arguments", "check_config", "server_arguments"]

DEFAULT_ARGUMENTS: Final = ("-ngl", "999", "--metrics")
_SECTION: Final = "llamacpp"
_ANY_MODEL: Final = ("--model", "model.gguf")


def base_arguments(
    text: str | None, *, bundled: bool = False, warn: Callable[[str], None] = lambda _message: None
) -> tuple[str, ...]:
    """What ``LLAMA_ARGS`` says, which replaces the defaults; either quote toggles quoting, as in the reference.

    For the ``bundled`` server everything is checked, down to the values. A native one may be newer than our table: its
    flags are checked for arity, and one that we do not know is passed on with a warning.

    Raises:
        InvalidConfigurationError: it sets what the runner itself must set, or what the server would not start with.
    """
    if text is None or not text.strip():
        return DEFAULT_ARGUMENTS
    words = _split(text)
    for word in words:
        name = word.partition("=")[0]
        canonical = name.replace("_", "-") if name.startswith("--") else name
        if canonical in CONTROLLED:
            raise InvalidConfigurationError(
                f"LLAMA_ARGS cannot override {name}, which is controlled by the model runner"
            )
        if canonical in EXITING:
            raise InvalidConfigurationError(f"LLAMA_ARGS cannot hold {name}: the server would print something and end")

    def unknown(name: str) -> None:
        nearest = OPERATOR_FLAGS.nearest(name)
        message = f"LLAMA_ARGS holds {name}, which is no flag of llama-server that dmr knows" + (
            f"; did you mean {nearest}?" if nearest else ""
        )
        if bundled:
            raise InvalidConfigurationError(message)
        warn(f"{message} It is passed on as it is.")

    try:
        rendered = render(latest(OPERATOR_FLAGS.parse(words, unknown=unknown)))
        if bundled:
            parse_for_bundled([*rendered, *_ANY_MODEL])
    except InvalidConfigurationError as exc:
        raise InvalidConfigurationError(f"invalid LLAMA_ARGS: {exc.message}") from exc
    except FlagError as exc:
        raise InvalidConfigurationError(f"invalid LLAMA_ARGS: {exc}") from exc
    return rendered


def check_config(config: EngineConfig, *, bundled: bool = False) -> None:
    """Refuse what this engine cannot honour or must not be told; ``bundled`` adds what the bundled server lacks.

    Raises:
        InvalidConfigurationError: names the flag or setting.
    """
    foreign = sorted(set(config.sections) - {_SECTION})
    if foreign:
        raise InvalidConfigurationError(f"settings for {foreign[0]!r} do not apply to the llama.cpp backend")
    _reasoning_budget(config.sections.get(_SECTION, {}))
    flags = CLIENT_FLAGS.parse(config.runtime_flags)
    if bundled:
        try:
            parse_for_bundled([*render(latest(flags)), *_ANY_MODEL])
        except FlagError as exc:
            raise InvalidConfigurationError(f"invalid runtime flags: {exc}", param="runtime-flags") from exc


def server_arguments(request: LaunchRequest, base: tuple[str, ...], socket: Path) -> tuple[str, ...]:
    """Everything after the program's name.

    Raises:
        UnsupportedFormatError: the model has no GGUF weights, or the mode is not one of llama.cpp's.
        InvalidConfigurationError: the settings hold a flag that is not allowed.
    """
    bundle, config = request.bundle, request.config
    if bundle.gguf is None:
        raise UnsupportedFormatError(f"GGUF file required by llama.cpp backend: {request.alias!r} has none")
    operators = OPERATOR_FLAGS.parse(base, unknown=lambda _name: None)
    # The mode was decided when the settings were made: here its flags could only contradict it.
    clients = tuple(use for use in CLIENT_FLAGS.parse(config.runtime_flags) if use.flag.setting != "mode")
    given = {use.flag.slot for use in (*operators, *clients)}
    set_flag = OPERATOR_FLAGS.use
    ours = [
        set_flag("--model", str(bundle.gguf)),
        set_flag("--host", str(socket)),
        set_flag("--alias", request.alias),
        *_mode_flags(request, given),
    ]
    budget = _reasoning_budget(config.sections.get(_SECTION, {}))
    if budget is not None:
        ours.append(set_flag("--reasoning-budget", str(budget)))
    if config.context_size is not None and (config.context_size == -1 or config.context_size > 0):
        # -1 is "as much as the model was trained for", which llama-server spells 0.
        ours.append(set_flag("--ctx-size", str(max(0, config.context_size))))
    if bundle.mmproj is not None and not _without_projector((*operators, *clients)):
        ours.append(set_flag("--mmproj", str(bundle.mmproj)))
    jinja = set_flag("--jinja")
    if jinja.flag.slot not in given:
        ours.append(jinja)
    if request.draft is not None and request.draft.gguf is not None and config.speculative is not None:
        ours.append(set_flag("--model-draft", str(request.draft.gguf)))
        if config.speculative.num_tokens:
            ours.append(set_flag("--spec-draft-n-max", str(config.speculative.num_tokens)))
        if config.speculative.min_acceptance_rate:
            ours.append(set_flag("--spec-draft-p-min", f"{config.speculative.min_acceptance_rate:.2f}"))
    return render(latest((*operators, *ours, *clients)))


def _mode_flags(request: LaunchRequest, given: set[str]) -> tuple[ParsedFlag, ...]:
    """What the mode asks for; ``given`` are the slots that operator and client set."""
    match request.mode:
        case EngineMode.COMPLETION:
            template = request.bundle.chat_template
            return () if template is None else (OPERATOR_FLAGS.use("--chat-template-file", str(template)),)
        case EngineMode.EMBEDDING:
            # A chat model does not say how to pool its tokens, and llama.cpp then refuses to embed: take their mean.
            told = any(key.endswith(".pooling_type") for key in request.model.config.gguf)
            pooling = OPERATOR_FLAGS.use("--pooling", "mean")
            embeddings = OPERATOR_FLAGS.use("--embeddings")
            return (embeddings,) if told or pooling.flag.slot in given else (embeddings, pooling)
        case EngineMode.RERANKING:
            return (OPERATOR_FLAGS.use("--embeddings"), OPERATOR_FLAGS.use("--reranking"))
        case _:
            raise UnsupportedFormatError(f'unsupported backend mode "{request.mode}"')


def _without_projector(uses: tuple[ParsedFlag, ...]) -> bool:
    """Whether the last word on the projector is not to use it; llama-server would heed that only for one it finds."""
    projector = OPERATOR_FLAGS.use("--mmproj-auto").flag.slot
    last = [use for use in uses if use.flag.slot == projector][-1:]
    return any(use.off for use in last)


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
