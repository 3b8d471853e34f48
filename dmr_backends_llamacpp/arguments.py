"""The argument vector of llama.cpp's server: pure but for the files that ``LLAMA_ARGS`` names.

Everything is a use of a flag until the end, and a later use replaces an earlier one: the operator's arguments, what the
runner itself must set, the mode, typed settings, and last the raw flags of a client, which therefore win over typed
settings as they do in llama.cpp. Each flag is in the vector once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

from dmr_backends_llamacpp.allowed_flags import CLIENT_FLAGS, CONTROLLED, EXITING, OPERATOR_FLAGS
from dmr_backends_llamacpp.claims import ClaimedUse, claimed, resolve
from dmr_backends_llamacpp.defaults import DEFAULT_ARGUMENTS
from dmr_backends_llamacpp.server_flags import FlagError
from dmr_backends_llamacpp.server_flags import parse as parse_for_bundled
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.flags import ParsedFlag, latest, render
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import Argument, LaunchRequest

__all__ = ["Extra", "base_arguments", "check_config", "explained_arguments", "server_arguments"]

_SECTION: Final = "llamacpp"
_LEAST_PROMPTS: Final = 16
_MOST_PROMPTS: Final = 512
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


Extra = tuple[str, str, Claim]
"""A flag with its value that this machine asks for, and why; whoever says otherwise wins."""


def server_arguments(
    request: LaunchRequest, base: tuple[str, ...], socket: Path, extra: Sequence[Extra] = ()
) -> tuple[str, ...]:
    """Everything after the program's name. Raises as :func:`explained_arguments`."""
    return tuple(word for one in explained_arguments(request, base, socket, extra) for word in one.words)


def explained_arguments(
    request: LaunchRequest,
    base: tuple[str, ...],
    socket: Path,
    extra: Sequence[Extra] = (),
    *,
    operators: bool = False,
) -> tuple[Argument, ...]:
    """Everything after the program's name, with the reason for each flag.

    ``operators`` says that ``base`` are arguments of the operator, and not the defaults.

    Raises:
        UnsupportedFormatError: the model has no GGUF weights, or the mode is not one of llama.cpp's.
        InvalidConfigurationError: the settings hold a flag that is not allowed.
    """
    bundle = request.bundle
    if bundle.gguf is None:
        raise UnsupportedFormatError(f"GGUF file required by llama.cpp backend: {request.alias!r} has none")
    source, by = (Source.ENVIRONMENT, "LLAMA_ARGS") if operators else (Source.DEFAULT, "")
    first = [claimed(use, source, by) for use in OPERATOR_FLAGS.parse(base, unknown=lambda _name: None)]
    # The mode was decided when the settings were made: here its flags could only contradict it.
    last = [
        claimed(use, Source.CONFIGURATION, "runtime-flags")
        for use in CLIENT_FLAGS.parse(request.config.runtime_flags)
        if use.flag.setting != "mode"
    ]
    ours = [
        _ours("--model", str(bundle.gguf)),
        _ours("--host", str(socket)),
        _ours("--alias", request.alias),
        *_mode_flags(request),
        *_configured(request),
        *_adapters(request),
    ]
    lost: list[tuple[str, Claim]] = []
    if bundle.mmproj is not None:
        projector = claimed(_use("--mmproj", str(bundle.mmproj)), Source.ARTIFACT, "projector")
        # llama-server would heed --no-mmproj only for a projector that it finds by itself.
        if _without_projector([one.use for one in (*first, *last)]):
            lost.append((_use("--mmproj-auto").flag.slot, projector.claim))
        else:
            ours.append(projector)
    given = {one.slot for one in (*first, *last)}
    for default in (*_defaults(request), *(ClaimedUse(_use(flag, value), claim) for flag, value, claim in extra)):
        if default.slot in given:
            lost.append((default.slot, default.claim))
        else:
            ours.append(default)
    if operators:
        lost += [(use.flag.slot, claimed(use, Source.DEFAULT).claim) for use in OPERATOR_FLAGS.parse(DEFAULT_ARGUMENTS)]
    return resolve((*first, *ours, *_speculative(request), *last), lost)


def _defaults(request: LaunchRequest) -> Iterator[ClaimedUse]:
    """What is said to a server where neither operator nor client says it."""
    # A chat model does not say how to pool its tokens, and llama.cpp then refuses to embed: take their mean.
    pooled = any(key.endswith(".pooling_type") for key in request.model.config.gguf)
    if request.mode is EngineMode.EMBEDDING and not pooled:
        yield claimed(_use("--pooling", "mean"), Source.DEFAULT, "mode embedding")
    yield claimed(_use("--jinja"), Source.DEFAULT)
    yield claimed(_use("--cache-ram", str(_prompt_cache(request.model.size))), Source.DEFAULT)


def _prompt_cache(size: int) -> int:
    """MiB of finished prompts to keep. llama.cpp's own default, 8 GiB, would make any estimate of memory worthless."""
    return min(_MOST_PROMPTS, max(_LEAST_PROMPTS, size // 4 >> 20))


def _adapters(request: LaunchRequest) -> Iterator[ClaimedUse]:
    for path in request.bundle.loras:
        if "," in str(path):  # which llama-server would take for two paths
            raise UnsupportedFormatError(
                f"an adapter of {request.alias!r} cannot be loaded: {str(path)!r} has a comma in it"
            )
        yield claimed(_use("--lora", str(path)), Source.ARTIFACT, "adapter")


def _use(name: str, value: str | None = None) -> ParsedFlag:
    return OPERATOR_FLAGS.use(name, value)


def _ours(name: str, value: str | None = None, by: str = "") -> ClaimedUse:
    return claimed(_use(name, value), Source.RUNNER, by)


def _configured(request: LaunchRequest) -> Iterator[ClaimedUse]:
    """What typed settings say, after what the model was packaged with."""
    config, packaged = request.config, request.model.config.context_size
    budget = _reasoning_budget(config.sections.get(_SECTION, {}))
    if budget is not None:
        yield claimed(_use("--reasoning-budget", str(budget)), Source.CONFIGURATION)
    if _sets_context(packaged):
        yield claimed(_context(packaged), Source.ARTIFACT, "context_size")
    if _sets_context(config.context_size) and "context-size" not in request.packaged:
        yield claimed(_context(config.context_size), Source.CONFIGURATION)


def _sets_context(size: int | None) -> TypeGuard[int]:
    return size is not None and (size == -1 or size > 0)


def _context(size: int) -> ParsedFlag:
    # -1 is "as much as the model was trained for", which llama-server spells 0.
    return _use("--ctx-size", str(max(0, size)))


def _speculative(request: LaunchRequest) -> Iterator[ClaimedUse]:
    draft, speculative = request.draft, request.config.speculative
    if draft is None or draft.gguf is None or speculative is None:
        return
    yield claimed(_use("--model-draft", str(draft.gguf)), Source.CONFIGURATION, value=speculative.draft_model)
    if speculative.num_tokens:
        yield claimed(_use("--spec-draft-n-max", str(speculative.num_tokens)), Source.CONFIGURATION)
    if speculative.min_acceptance_rate:
        rate = f"{speculative.min_acceptance_rate:.2f}"
        yield claimed(_use("--spec-draft-p-min", rate), Source.CONFIGURATION)


def _mode_flags(request: LaunchRequest) -> Iterator[ClaimedUse]:
    """What the mode asks for."""
    mode = f"mode {request.mode.value}"
    match request.mode:
        case EngineMode.COMPLETION:
            if request.bundle.chat_template is not None:
                template = _use("--chat-template-file", str(request.bundle.chat_template))
                yield claimed(template, Source.ARTIFACT, "chat template")
        case EngineMode.EMBEDDING:
            yield _ours("--embeddings", by=mode)
        case EngineMode.RERANKING:
            yield _ours("--embeddings", by=mode)
            yield _ours("--reranking", by=mode)
        case _:
            raise UnsupportedFormatError(f'unsupported backend mode "{request.mode}"')


def _without_projector(uses: Sequence[ParsedFlag]) -> bool:
    """Whether the last word on the projector is not to use it."""
    projector = _use("--mmproj-auto").flag.slot
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
