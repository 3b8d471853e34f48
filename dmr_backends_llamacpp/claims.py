"""Uses of llama-server's flags with their reasons, and what is left of them in the argument vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from dmr_backends_llamacpp.allowed_flags import OPERATOR_FLAGS
from dmr_core.domain.flags import Flag, ParsedFlag
from dmr_core.domain.provenance import Claim, Source
from dmr_core.ports.engine import Argument

__all__ = ["ClaimedUse", "claimed", "resolve"]

_CONTEXT: Final = "--ctx-size"
_MODE: Final = "mode"
"""What is explained is the settings of a mode: the flags that carry it out are known as themselves."""
# Settings that are known by other names than their flags', by what the flag sets.
_NAMES: Final = {
    OPERATOR_FLAGS.use(flag).flag.slot: name
    for flag, name in (
        ("--chat-template-file", "chat-template"),
        ("--mmproj", "mmproj"),
        ("--lora", "lora"),
        ("--model-draft", "speculative.draft_model"),
        # What a runner cannot do without is no matter of choice.
        ("--model", ""),
        ("--host", ""),
        ("--alias", ""),
    )
}
_CHANGING: Final = frozenset(OPERATOR_FLAGS.use(flag).flag.slot for flag in ("--host", "--alias"))


@attrs.frozen
class ClaimedUse:
    """A use of a flag, and who wants it."""

    use: ParsedFlag
    claim: Claim

    @property
    def slot(self) -> str:
        """What it sets."""
        return self.use.flag.slot


def claimed(use: ParsedFlag, source: Source, by: str = "", value: str | None = None) -> ClaimedUse:
    """A use with its reason. ``value`` is what people know the setting's value as, where that is another word."""
    return ClaimedUse(use, Claim(_value(use) if value is None else value, source, by))


def resolve(uses: Sequence[ClaimedUse], lost: Iterable[tuple[str, Claim]] = ()) -> tuple[Argument, ...]:
    """Each slot once, as its last use has it and where that stands; flags that collect are all kept.

    ``lost`` are claims that come to nothing because of what has the slot they are named with.
    """
    last = {one.slot: index for index, one in enumerate(uses)}
    before: dict[str, list[Claim]] = {}
    for slot, claim in lost:
        before.setdefault(slot, []).append(claim)
    for index, one in enumerate(uses):
        if not one.use.flag.collects and last[one.slot] != index:
            before.setdefault(one.slot, []).append(one.claim)
    return tuple(
        Argument(
            words=one.use.words,
            claim=one.claim,
            setting=_name(one.use.flag),
            overrode=() if one.use.flag.collects else tuple(reversed(before.get(one.slot, ()))),
            changes=one.slot in _CHANGING,
        )
        for index, one in enumerate(uses)
        if one.use.flag.collects or last[one.slot] == index
    )


def _name(flag: Flag) -> str:
    if flag.setting and flag.setting != _MODE:
        return flag.setting
    if flag.slot in _NAMES:
        return _NAMES[flag.slot]
    # One flag may be known by several spellings, and to clients by fewer than to the operator.
    known = OPERATOR_FLAGS.find(flag.names[0] if flag.names else flag.off_names[0]) or flag
    return next((name for name in known.names if name.startswith("--")), (*known.names, *flag.off_names)[0])


def _value(use: ParsedFlag) -> str:
    if use.value is None:
        return "false" if use.off else "true"
    if _CONTEXT in use.flag.names and use.value == "0":
        return "-1"  # what the model was trained with: llama-server's word, and everybody else's
    return use.value
